import type { ResultOf, VariablesOf } from "gql.tada";
import { type DocumentNode, print } from "graphql";
import { graphql } from "./graphql";

/** A refusal: `code` has a page in the documentation. `retryable`: the same request may be sent again. */
export class Refused extends Error {
  constructor(message: string, readonly code: string, readonly retryable: boolean) {
    super(message);
  }
}

type Answer<T> = { data?: T | null; errors?: { message: string; extensions?: { code?: string; retryable?: boolean } }[] };

/** One query or mutation. */
export async function ask<D extends DocumentNode>(document: D, variables: VariablesOf<D>): Promise<ResultOf<D>> {
  const response = await fetch("/graphql", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/graphql-response+json, application/json" },
    body: JSON.stringify({ query: print(document), variables }),
  });
  const answer: Answer<ResultOf<D>> = await response.json().catch(() => ({}));
  const [error] = answer.errors ?? [];
  if (error) throw new Refused(error.message, error.extensions?.code ?? "error", error.extensions?.retryable ?? false);
  if (!answer.data) throw new Refused(`The server answered ${response.status}.`, "away", true);
  return answer.data;
}

const Upsert = graphql(`
  mutation Rename($input: EmployeeUpsertInput!) {
    employeeUpsert(input: $input) {
      employee { id pin name }
      idempotentReplay
      userErrors { code message }
    }
  }
`);

/**
 * Rename a person, once. The key is made before the first try and stays the same over all of them: when an answer is
 * lost on the way, the next try gets that same answer, and nothing is done twice.
 */
export async function rename(pin: string, name: string, idempotencyKey = crypto.randomUUID()) {
  for (let pause = 500; ; pause = Math.min(pause * 2, 10_000)) {
    try {
      const { employeeUpsert } = await ask(Upsert, { input: { pin, name, idempotencyKey } });
      const [refusal] = employeeUpsert?.userErrors ?? [];
      if (refusal) throw new Refused(refusal.message, refusal.code, false);
      return employeeUpsert?.employee?.name ?? name;
    } catch (problem) {
      // A TypeError is fetch's way of saying that nobody answered.
      if (!(problem instanceof TypeError || (problem instanceof Refused && problem.retryable))) throw problem;
      await new Promise((done) => setTimeout(done, pause * (0.5 + Math.random() / 2)));
    }
  }
}
