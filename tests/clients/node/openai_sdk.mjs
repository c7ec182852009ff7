// OpenAI's client for Node.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import * as common from "./operations.mjs";

const client = new OpenAI({ baseURL: common.BASE_URL, apiKey: common.API_KEY });
const chat = client.chat.completions;
const user = (content) => [{ role: "user", content }];
const hello = { model: common.MODEL, messages: user(common.PROMPT) };
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tool = { type: "function", function: { name: "get_weather", description: "Return the temperature.", parameters } };
const weather = { model: common.MODEL, messages: user(common.WEATHER_QUESTION), tools: [tool] };
const person = {
  model: common.MODEL,
  messages: user(common.PERSON_QUESTION),
  response_format: zodResponseFormat(z.object({ name: z.string(), born: z.number() }), "person"),
};

await common.serve(["openai"], {
  async plain(seen) {
    seen.answer = await chat.create(hello);
  },
  async stream(seen) {
    seen.chunks = [];
    for await (const chunk of await chat.create({ ...hello, stream: true })) seen.chunks.push(chunk);
  },
  async stream_usage(seen) {
    seen.chunks = [];
    const stream = await chat.create({ ...hello, stream: true, stream_options: { include_usage: true } });
    for await (const chunk of stream) seen.chunks.push(chunk);
  },
  async tools(seen) {
    const { message } = (await chat.create(weather)).choices[0];
    const [call] = message.tool_calls;
    seen.call = call;
    const content = common.getWeather(JSON.parse(call.function.arguments));
    const messages = [...weather.messages, message, { role: "tool", tool_call_id: call.id, content }];
    seen.answer = await chat.create({ ...weather, messages });
  },
  async tools_stream(seen) {
    seen.answer = await chat.stream(weather).finalChatCompletion();
  },
  async structured(seen) {
    seen.person = (await chat.parse(person)).choices[0].message.parsed;
  },
  async structured_stream(seen) {
    seen.person = (await chat.stream(person).finalChatCompletion()).choices[0].message.parsed;
  },
  async cancel(seen) {
    for await (const chunk of await chat.create({ ...hello, stream: true })) {
      seen.text = chunk.choices[0].delta.content;
      if (seen.text) break;
    }
  },
});
