// Asking the server.

const PATIENCE_MS = 15000; // a server that says nothing for so long is asked again
const MOST_PATIENT_S = 60;
const LATER = [429, 503]; // too much at once; the store cannot be used just now

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The server did nothing, and says in how many seconds to try again. */
export class Later extends Error {
  constructor(seconds, message) {
    super(message);
    this.seconds = seconds;
  }
}

let page; // whose it is

/** From now on every request says whose page this is: another link may be opened in the same browser. */
export function callAs(name) {
  page = encodeURIComponent(name);
}

/** Ask the server; throws Refused for a 4xx, Later where it says so; any other error means "try again" as well. */
export async function call(path, body) {
  const asking = { signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store", headers: {} };
  if (page !== undefined) asking.headers["x-backflip-you"] = page;
  if (body !== undefined) {
    asking.method = "POST";
    asking.headers["content-type"] = "application/json";
    asking.body = JSON.stringify(body);
  }
  const response = await fetch(path, asking);
  if (response.ok) return response.json();
  const text = await response.text();
  let sentence = text.trim();
  try {
    const { detail } = JSON.parse(text);
    sentence = typeof detail === "string" ? detail : JSON.stringify(detail);
  } catch {} // a plain sentence
  if (LATER.includes(response.status)) {
    const seconds = Number(response.headers.get("retry-after"));
    throw new Later(seconds > 0 ? Math.min(seconds, MOST_PATIENT_S) : 1, sentence);
  }
  if (response.status >= 400 && response.status < 500) throw new Refused(response.status, sentence);
  throw new Error(sentence);
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
