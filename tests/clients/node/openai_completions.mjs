// OpenAI's client for Node: completions.
import OpenAI from "openai";
import * as common from "./operations.mjs";

const { completions } = new OpenAI({ baseURL: common.BASE_URL, apiKey: common.API_KEY });
const hello = { model: common.MODEL, prompt: common.PROMPT };
const TOKEN_LISTS = [[9906, 11], [1901, 9011]];

async function collect(seen, more) {
  seen.chunks = [];
  for await (const chunk of await completions.create({ ...hello, ...more, stream: true })) seen.chunks.push(chunk);
}

async function keep(seen, more) {
  seen.answer = await completions.create({ ...hello, ...more });
}

await common.serve(["openai"], {
  plain: (seen) => keep(seen, {}),
  stream: (seen) => collect(seen, {}),
  stream_usage: (seen) => collect(seen, { stream_options: { include_usage: true } }),
  several_prompts: (seen) => keep(seen, { prompt: [common.PROMPT, "And again"] }),
  token_ids: (seen) => keep(seen, { prompt: TOKEN_LISTS[0] }),
  token_lists_stream: (seen) => collect(seen, { prompt: TOKEN_LISTS }),
  choices: (seen) => keep(seen, { n: 2, best_of: 3, logprobs: 2, echo: true, suffix: "." }),
  ceiling: (seen) => keep(seen, { max_tokens: 2 }),
  async cancel(seen) {
    for await (const chunk of await completions.create({ ...hello, stream: true })) {
      seen.text = chunk.choices[0].text;
      if (seen.text) break;
    }
  },
});
