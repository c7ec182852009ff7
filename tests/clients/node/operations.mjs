// The loop of a client script, as in ../python/operations.py: the name of an operation in, one JSON line out.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

export const MODEL = "gpt-4o-mini";
export const API_KEY = "sk-test";
export const PROMPT = "Say hello";
export const WEATHER_QUESTION = "How warm is it in Oslo?";
export const PERSON_QUESTION = "Who wrote the first program?";
export const BASE_URL = process.argv.at(-1);
export const getWeather = ({ city }) => `21 degrees in ${city}`;

// What an application can read of an error; `lastError` is what a wrapper of several attempts sets.
function described(error) {
  if (!(error instanceof Error)) return { value: error };
  const { status, statusCode, code, type, param, data, lastError, finishReason } = error;
  const last = lastError && described(lastError);
  const { message } = error;
  return { class: error.constructor.name, message, status, statusCode, code, type, param, data, finishReason, last };
}

function versionOf(name) {
  return JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version;
}

export async function serve(packages, operations) {
  console.log(JSON.stringify({ version: packages.map(versionOf).join(" + ") }));
  for await (const line of createInterface({ input: process.stdin })) {
    const seen = {};
    try {
      await operations[line](seen);
    } catch (error) {
      seen.error = described(error);
    }
    console.log(JSON.stringify(seen));
  }
}
