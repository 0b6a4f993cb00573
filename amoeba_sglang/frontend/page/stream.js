// Server-sent events, read by fetch: EventSource could not send a key but in the address.

const FIRST_WAIT = 1000, LAST_WAIT = 10000;

// Calls take(name, data) for every event, for as long as the page is open, and say(text, good) of
// the connection. key() is the one to send, or ""; ask(why) asks for another.
export async function follow({ take, say, key, ask }) {
  let wait = FIRST_WAIT;
  for (;;) {
    try {
      const response = await fetch("events", { headers: withKey(key()), cache: "no-store" });
      if (response.status === 401 || response.status === 403) {
        say("a key is needed", false);
        const answered = await ask(key() ? "This key is not the server's." : "This server shows itself to who has its key.");
        if (answered) continue;
        return say("no key: load the page again to give one", false);
      }
      if (!response.ok) throw new Error(await reason(response));
      say("live", true);
      wait = FIRST_WAIT;
      await read(response.body, take);
      say("the server closed the stream; trying again", false);
    } catch (error) {
      say(`no connection (${error.message}); trying again`, false);
    }
    await new Promise((resume) => setTimeout(resume, wait));
    wait = Math.min(2 * wait, LAST_WAIT);
  }
}

export function withKey(key) {
  return key ? { authorization: `Bearer ${key}` } : {};
}

export async function reason(response) {
  try {
    const { error } = await response.json();
    return error.message ?? error;
  } catch {
    return `HTTP ${response.status}`;
  }
}

async function read(body, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const fields = Object.fromEntries(event.split("\n").map((line) => line.split(/: (.*)/s)));
      take(fields.event, JSON.parse(fields.data));
    }
  }
}
