export default {
  schema: [
    {
      [process.env.GENERATOR_URL]: { headers: { Authorization: `Bearer ${process.env.GENERATOR_KEY}` } },
    },
  ],
  documents: ["documents.graphql"],
  generates: { [process.env.GENERATOR_OUT]: { plugins: ["typescript", "typescript-operations"] } },
};
