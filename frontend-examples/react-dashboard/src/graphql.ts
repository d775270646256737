// Documents typed by schema.graphql: `npm run schema` writes schema.d.ts, the compiler checks each field and variable.
import { initGraphQLTada } from "gql.tada";
import type { introspection } from "./schema.d.ts";

export const graphql = initGraphQLTada<{
  introspection: introspection;
  scalars: { DateTime: string; LocalDateTime: string };
}>();
