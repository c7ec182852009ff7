// OpenAI's client for Node: the Responses API.
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import * as common from "./operations.mjs";

const { responses } = new OpenAI({ baseURL: common.BASE_URL, apiKey: common.API_KEY });
const { MODEL: model } = common;
const hello = { model, input: common.PROMPT };
const short = { ...hello, max_output_tokens: 16 };
const user = (content) => [{ role: "user", content }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tool = { type: "function", name: "get_weather", description: "Return the temperature.", parameters, strict: null };
const weather = { model, input: user(common.WEATHER_QUESTION), tools: [tool] };
const custom = { ...hello, tools: [{ type: "custom", name: "run_python", description: "Run Python code." }] };
const person = {
  model,
  input: common.PERSON_QUESTION,
  text: { format: zodTextFormat(z.object({ name: z.string(), born: z.number() }), "person") },
};
const MISSING = "resp_missing";

// An application must look for errors among the events: the SDK yields them.
async function collect(seen, asked) {
  seen.events = [];
  for await (const event of await responses.create({ ...asked, stream: true })) {
    seen.events.push(event);
    if (event.type === "error") throw new Error(event.message);
    if (event.type === "response.failed") throw new Error(event.response.error.message);
  }
}

await common.serve(["openai"], {
  async plain(seen) {
    seen.answer = await responses.create(hello);
  },
  stream: (seen) => collect(seen, hello),
  async tools(seen) {
    const { output } = await responses.create(weather);
    const call = output.find((item) => item.type === "function_call");
    seen.call = call;
    const result = common.getWeather(JSON.parse(call.arguments));
    const done = { type: "function_call_output", call_id: call.call_id, output: result };
    seen.answer = await responses.create({ ...weather, input: [...weather.input, ...output, done] });
  },
  async tools_stream(seen) {
    seen.answer = await responses.stream(weather).finalResponse();
  },
  async structured(seen) {
    seen.person = (await responses.parse(person)).output_parsed;
  },
  async structured_stream(seen) {
    seen.person = (await responses.stream(person).finalResponse()).output_parsed;
  },
  async incomplete(seen) {
    seen.answer = await responses.create(short);
  },
  incomplete_stream: (seen) => collect(seen, short),
  async custom_tool(seen) {
    const { output } = await responses.create(custom);
    seen.call = output[0];
    const done = { type: "custom_tool_call_output", call_id: output[0].call_id, output: "1" };
    seen.answer = await responses.create({ model, input: [...user(common.PROMPT), ...output, done] });
  },
  custom_tool_stream: (seen) => collect(seen, custom),
  async previous(seen) {
    const first = await responses.create(hello);
    seen.first = first.id;
    seen.second = await responses.create({ model, input: "And again", previous_response_id: first.id });
  },
  async previous_missing(seen) {
    seen.answer = await responses.create({ ...hello, previous_response_id: MISSING });
  },
  async stored(seen) {
    const { id } = await responses.create(hello);
    seen.read = await responses.retrieve(id);
    seen.items = [];
    for await (const item of responses.inputItems.list(id, { limit: 5, order: "asc" })) seen.items.push(item);
    await responses.delete(id);
    seen.state = "deleted";
  },
  async stored_missing(seen) {
    seen.read = await responses.retrieve(MISSING);
  },
  async cancel_stored(seen) {
    seen.cancelled = await responses.cancel((await responses.create(hello)).id);
  },
  async input_tokens(seen) {
    seen.count = await responses.inputTokens.count(hello);
  },
  async cancel(seen) {
    for await (const event of await responses.create({ ...hello, stream: true })) {
      if (event.type !== "response.output_text.delta") continue;
      seen.text = event.delta;
      break;
    }
  },
});
