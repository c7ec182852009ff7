// Vercel's AI SDK.  usage: ai_sdk.mjs PROVIDER [responses] BASE_URL
// `openai(model)` uses the Responses API; `openai.chat(model)` uses chat completions.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import * as common from "./operations.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const at = { baseURL: common.BASE_URL, apiKey: common.API_KEY };
const providers = {
  "@ai-sdk/openai": () => (process.argv[3] === "responses" ? createOpenAI(at)(common.MODEL) : createOpenAI(at).chat(common.MODEL)),
  "@ai-sdk/openai-compatible": (more) =>
    createOpenAICompatible({ ...at, ...more, name: "sidecar", supportsStructuredOutputs: true })(common.MODEL),
};
const provider = process.argv[2];
const hello = { model: providers[provider](), prompt: common.PROMPT };
const counted = { ...hello, model: providers[provider]({ includeUsage: true }) };
const inputSchema = z.object({ city: z.string() });
const weather = {
  ...hello,
  prompt: common.WEATHER_QUESTION,
  stopWhen: stepCountIs(2),
  tools: {
    get_weather: tool({ description: "Return the temperature.", inputSchema, execute: common.getWeather }),
  },
};
const person = {
  ...hello,
  prompt: common.PERSON_QUESTION,
  output: Output.object({ schema: z.object({ name: z.string(), born: z.number() }) }),
};

async function collect(seen, options) {
  seen.parts = [];
  for await (const part of streamText({ ...options, onError() {} }).fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type.endsWith("-delta")) seen.parts.push([part.type, part.text ?? part.delta]);
    if (part.type === "finish") Object.assign(seen, { finish: part.finishReason, usage: part.totalUsage });
  }
}

await common.serve(["ai", provider], {
  async plain(seen) {
    const { text, reasoningText, finishReason, usage } = await generateText(hello);
    Object.assign(seen, { text, reasoningText, finishReason, usage });
  },
  stream: (seen) => collect(seen, hello),
  stream_usage: (seen) => collect(seen, counted),
  async tools(seen) {
    const { text, steps } = await generateText(weather);
    Object.assign(seen, { text, calls: steps[0].toolCalls, results: steps[0].toolResults });
  },
  tools_stream: (seen) => collect(seen, weather),
  async structured(seen) {
    seen.person = (await generateText(person)).output;
  },
  async structured_stream(seen) {
    seen.person = await streamText(person).output;
  },
  async incomplete(seen) {
    const { text, finishReason, usage } = await generateText({ ...hello, maxOutputTokens: 16 });
    Object.assign(seen, { text, finishReason, usage });
  },
  incomplete_stream: (seen) => collect(seen, { ...hello, maxOutputTokens: 16 }),
  async cancel(seen) {
    const leaving = new AbortController();
    for await (const text of streamText({ ...hello, abortSignal: leaving.signal }).textStream) {
      seen.text ??= text;
      leaving.abort();
    }
  },
});
