// The unmodified OpenAI client for Node, pointed at the sidecar.  usage: client.mjs BASE_URL; prints one JSON object.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "sk-test", maxRetries: 0 });
const messages = [{ role: "user", content: "hi" }];
const seen = { pieces: [] };

const stream = await client.chat.completions.create({
  model: "mock-5-1-0",
  messages,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  if (chunk.choices[0]?.delta?.content) seen.pieces.push(chunk.choices[0].delta.content);
  if (chunk.usage) seen.usage = chunk.usage.completion_tokens;
}
const whole = await client.chat.completions.create({ model: "mock-5-0-0", messages });
seen.whole = whole.choices[0].message.content;
seen.models = (await client.models.list()).data.map((model) => model.id);
try {
  await client.chat.completions.create({ model: "mock-5-0-0", messages: [] });
} catch (error) {
  seen.refused = [error.constructor.name, error.status, error.code];
}
const aborted = await client.chat.completions.create({ model: "mock-100000-1-0", messages, stream: true });
for await (const chunk of aborted) {
  if (chunk.choices[0]?.delta?.content) break;
}
console.log(JSON.stringify(seen));
