// Vercel's AI SDK: embeddings.
import { createOpenAI } from "@ai-sdk/openai";
import { embed, embedMany } from "ai";
import * as common from "./operations.mjs";

const openai = createOpenAI({ baseURL: common.BASE_URL, apiKey: common.API_KEY });
const model = openai.embedding("text-embedding-3-small");

await common.serve(["ai", "@ai-sdk/openai"], {
  async plain(seen) {
    const { embedding, usage } = await embed({ model, value: common.PROMPT });
    Object.assign(seen, { embedding, usage });
  },
  async several(seen) {
    const { embeddings, usage } = await embedMany({ model, values: [common.PROMPT, "And again"] });
    Object.assign(seen, { embeddings, usage });
  },
});
