import type { ResultOf } from "gql.tada";
import { useEffect, useOptimistic, useState, useSyncExternalStore } from "react";
import { ask } from "./api";
import { Feed } from "./feed";
import { graphql } from "./graphql";
import { People } from "./People";

const Overview = graphql(`
  query Overview {
    viewer { tenant { name } }
    devices(first: 100) { nodes { id name connection lastSeenAt } }
    employees(first: 100) { nodes { id pin name } }
  }
`);
export type Person = NonNullable<ResultOf<typeof Overview>["employees"]>["nodes"][number];

export type Rename = { pin: string; name: string };
const withName = (people: Person[], { pin, name }: Rename) =>
  people.map((person) => (person.pin === pin ? { ...person, name } : person));

const feed = new Feed();
const words = (name: string) => name.toLowerCase().replaceAll("_", " ");

export function App() {
  const { connection, punches, resumed, notice } = useSyncExternalStore(feed.listen, feed.read);
  const [overview, setOverview] = useState<ResultOf<typeof Overview>>();

  useEffect(() => {
    feed.start();
    return () => feed.stop();
  }, []);
  useEffect(() => {
    const look = () => ask(Overview, {}).then(setOverview, () => {});
    void look();
    const timer = setInterval(look, 10_000);
    return () => clearInterval(timer);
  }, []);

  // What is shown is ahead of what is known for as long as a rename is under way.
  const [people, show] = useOptimistic(overview?.employees?.nodes ?? [], withName);
  function keep(change: Rename) {
    setOverview((seen) => seen?.employees ? { ...seen, employees: { nodes: withName(seen.employees.nodes, change) } } : seen);
  }

  const names = new Map(people.map(({ pin, name }) => [pin, name]));
  return (
    <main>
      <header>
        <h1>{overview?.viewer?.tenant.name ?? "PunchConnect"}</h1>
        <p id="connection" data-connection={connection} role="status">{connection}{resumed > 0 && `, resumed ${resumed} ×`}</p>
      </header>
      {notice && <p className="notice" role="alert">{notice}</p>}
      <section aria-labelledby="live">
        <h2 id="live">Live</h2>
        <div className="scroll" tabIndex={0} role="region" aria-labelledby="live">
          <table>
            <thead><tr><th scope="col">Who</th><th scope="col">When</th><th scope="col">Way</th><th scope="col">Where</th></tr></thead>
            <tbody id="punches">
              {punches.map(({ id, pin, localTime, timeZone, direction, buffered, employee, device }) => (
                <tr key={id}>
                  <th scope="row">{names.get(pin) ?? employee?.name ?? `PIN ${pin}`}</th>
                  <td title={timeZone}>{localTime.replace("T", " ")}{buffered && " (late)"}</td>
                  <td>{words(direction)}</td>
                  <td>{device.name}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
        {punches.length === 0 && <p>Waiting for the first punch.</p>}
      </section>
      <section aria-labelledby="terminals">
        <h2 id="terminals">Terminals</h2>
        <ul className="tiles">
          {overview?.devices?.nodes.map(({ id, name, connection }) => (
            <li key={id} data-connection={connection}>{name}<small>{words(connection)}</small></li>
          ))}
        </ul>
      </section>
      <People people={people} show={show} keep={keep} />
    </main>
  );
}
