// Asking the run's server, and telling it something.

import { call } from "../calls.js";
import { uuid } from "../queue.js";
import { toast } from "./elements.js";

/** What the server says; undefined while it cannot be reached or will not tell, which the page's header says. */
export async function heard(path, query = {}) {
  const words = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== undefined && value !== ""));
  try {
    return await call(words.size ? `${path}?${words}` : path);
  } catch {
    return undefined;
  }
}

/** Tell the server something, under a new UUID if it is an event; what it says, or undefined where it refused. */
export async function sent(path, body, done, event = false) {
  try {
    const reply = await call(path, event ? { uuid: uuid(), ...body } : body);
    if (done) toast(done);
    return reply;
  } catch (error) {
    toast(`Not done: ${error.message}`, "bad");
    return undefined;
  }
}
