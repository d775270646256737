import { graphql } from "react-relay";

graphql`
  query pageQuery($count: Int!) {
    ...pagePunches_query @arguments(count: $count)
  }
`;

graphql`
  fragment pagePunches_query on Query
  @refetchable(queryName: "PunchesPaginationQuery")
  @argumentDefinitions(count: { type: "Int", defaultValue: 50 }, cursor: { type: "String" }) {
    punches(first: $count, after: $cursor) @connection(key: "page_punches") {
      edges {
        node {
          id
          pin
          device {
            id
            name
          }
        }
      }
    }
  }
`;
