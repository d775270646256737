// The live feed, without a gap and without a repeat, over any number of lost connections.
import type { ResultOf } from "gql.tada";
import { print } from "graphql";
import { type Client, createClient } from "graphql-ws";
import { ask } from "./api";
import { graphql } from "./graphql";

const PunchFields = graphql(`
  fragment PunchFields on Punch @_unmask {
    id pin localTime timeZone direction buffered
    employee { name }
    device { name }
  }
`);
const Follow = graphql(`
  subscription Follow($after: String) {
    punches(after: $after) { cursor previousCursor punches { ...PunchFields } }
  }
`, [PunchFields]);
const Latest = graphql(`query Latest { punches(first: 20) { nodes { ...PunchFields } } }`, [PunchFields]);

export type Punch = ResultOf<typeof PunchFields>;
export type FeedState = { connection: "connecting" | "live" | "stopped"; punches: Punch[]; resumed: number; notice: string };

const MOST_ROWS = 200;
const SILENCE = 40_000; // the server says something every 15 s; after this the connection is dead
const sleep = (ms: number) => new Promise<void>((done) => setTimeout(done, ms));

export class Feed {
  #state: FeedState = { connection: "connecting", punches: [], resumed: 0, notice: "" };
  #listeners = new Set<() => void>();
  #client: Client | undefined;
  #unsubscribe = () => {};
  #watchdog: ReturnType<typeof setTimeout> | undefined;
  // graphql-ws sends this very object again after it has reconnected, so the cursor in it has to be the latest.
  #variables: { after: string | null } = { after: null };

  // For useSyncExternalStore.
  listen = (listener: () => void) => {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  };
  read = () => this.#state;

  start() {
    this.#client = createClient({
      url: `${location.origin.replace("http", "ws")}/graphql`,
      retryAttempts: Infinity,
      retryWait: (tries) => sleep(Math.min(500 * 2 ** tries, 5_000) * (0.5 + Math.random() / 2)),
      shouldRetry: (problem) => (problem as CloseEvent).code !== 4403, // a refused key stays refused
      on: {
        connected: (_socket, _payload, again) => again && this.#set({ resumed: this.#state.resumed + 1 }),
        message: () => this.#watch(),
        closed: () => this.#set({ connection: "connecting" }),
      },
    });
    this.#follow();
  }

  stop() {
    clearTimeout(this.#watchdog);
    this.#unsubscribe();
    void this.#client?.dispose();
    this.#client = undefined;
  }

  #follow() {
    this.#unsubscribe = this.#client!.subscribe<ResultOf<typeof Follow>>(
      { query: print(Follow), variables: this.#variables },
      {
        next: ({ data, errors }) => (data ? this.#take(data.punches) : this.#fail(errors)),
        error: (problem) => this.#fail(problem),
        complete: () => {},
      },
    );
  }

  #take({ cursor, previousCursor, punches }: ResultOf<typeof Follow>["punches"]) {
    const first = this.#variables.after === null;
    // A batch that does not follow on from what we have: ask again, from where we are.
    if (!first && previousCursor !== this.#variables.after) return void this.#again(1000);
    this.#variables.after = cursor;
    this.#set({ connection: "live", notice: "" });
    this.#show(punches);
    // The cursor first, the history second: what is made between the two is in both, and dropped by its id.
    if (first) void ask(Latest, {}).then(({ punches }) => this.#show([...(punches?.nodes ?? [])].reverse(), true), () => {});
  }

  #show(fresh: Punch[], older = false) {
    const known = new Set(this.#state.punches.map((punch) => punch.id));
    const added = fresh.filter((punch) => !known.has(punch.id)).reverse();
    const punches = older ? [...this.#state.punches, ...added] : [...added, ...this.#state.punches];
    if (added.length) this.#set({ punches: punches.slice(0, MOST_ROWS) });
  }

  async #again(pause: number) {
    this.#unsubscribe();
    await sleep(pause);
    if (this.#client) this.#follow();
  }

  /** A list of GraphQL errors, or a closing frame. */
  #fail(problem: unknown) {
    const [error] = Array.isArray(problem) ? problem : [];
    const { code, oldestCursor, retryable } = error?.extensions ?? {};
    if (code === "cursor_expired" || code === "cursor_invalid") {
      this.#variables.after = oldestCursor ?? null;
      this.#set({ notice: "Something is missing here: it is older than what the server keeps." });
      void this.#again(0);
    } else if (retryable) {
      void this.#again(1000);
    } else {
      this.#set({ connection: "stopped", notice: error?.message ?? "The server does not take this key." });
    }
  }

  /** A connection may die without a word. Cut it, and the library makes another. */
  #watch() {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.#client?.terminate(), SILENCE);
  }

  #set(changes: Partial<FeedState>) {
    this.#state = { ...this.#state, ...changes };
    for (const listener of this.#listeners) listener();
  }
}
