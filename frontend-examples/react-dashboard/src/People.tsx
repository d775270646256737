import { useActionState } from "react";
import type { Person, Rename } from "./App";
import { Refused, rename } from "./api";

type Change = (change: Rename) => void;

export function People({ people, show, keep }: { people: Person[]; show: Change; keep: Change }) {
  return (
    <section aria-labelledby="people">
      <h2 id="people">People</h2>
      <ul className="people">
        {people.map((person) => <Row key={person.id} person={person} show={show} keep={keep} />)}
      </ul>
    </section>
  );
}

/** The new name shows at once, everywhere. It stays when the server has it, and goes when the server refuses. */
function Row({ person: { pin, name }, show, keep }: { person: Person; show: Change; keep: Change }) {
  const [refused, save, saving] = useActionState(async (_refused: string, form: FormData) => {
    const wanted = String(form.get("name")).trim();
    if (wanted === (name ?? "")) return "";
    show({ pin, name: wanted });
    try {
      keep({ pin, name: await rename(pin, wanted) });
      return "";
    } catch (problem) {
      return problem instanceof Refused ? `${problem.message} (${problem.code})` : String(problem);
    }
  }, "");

  return (
    <li data-pin={pin} data-saving={saving}>
      <form action={save}>
        <code>{pin}</code>
        <input key={name} name="name" defaultValue={name ?? ""} aria-label={`Name of ${pin}`} disabled={saving} />
        <button disabled={saving}>{saving ? "Saving …" : "Rename"}</button>
      </form>
      {refused && <p role="alert">{refused}</p>}
    </li>
  );
}
