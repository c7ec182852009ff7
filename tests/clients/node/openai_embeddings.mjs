// OpenAI's client for Node: embeddings, in base64 unless it is told otherwise.
import OpenAI from "openai";
import * as common from "./operations.mjs";

const { embeddings } = new OpenAI({ baseURL: common.BASE_URL, apiKey: common.API_KEY });
const TOKEN_LISTS = [[9906, 11], [1901, 9011, 13]];

async function embed(seen, input, more) {
  seen.answer = await embeddings.create({ model: "text-embedding-3-small", input, ...more });
}

await common.serve(["openai"], {
  plain: (seen) => embed(seen, common.PROMPT),
  several: (seen) => embed(seen, [common.PROMPT, "And again"]),
  token_ids: (seen) => embed(seen, TOKEN_LISTS[0]),
  token_lists: (seen) => embed(seen, TOKEN_LISTS),
  floats: (seen) => embed(seen, common.PROMPT, { encoding_format: "float" }),
  dimensions: (seen) => embed(seen, common.PROMPT, { dimensions: 5 }),
});
