// The key lives in sessionStorage: this tab, this origin, gone with the tab. It travels in headers only.
(async () => {
  "use strict";
  const KEY = "punchconnect.key";
  const $ = (id) => document.getElementById(id);
  const ask = $("ask"), refused = $("refused"), who = $("who"), forget = $("forget"), picker = $("example");
  const http = new URL("/graphql", location.href).href;
  const ws = http.replace(/^http/, "ws");
  const examples = await (await fetch(document.body.dataset.examples)).json();

  const bearer = () => `Bearer ${sessionStorage.getItem(KEY)}`;

  async function post(body, signal) {
    const answer = await fetch(http, {
      method: "POST",
      headers: {"Content-Type": "application/json", Accept: "application/json", Authorization: bearer()},
      body: JSON.stringify(body),
      signal,
    });
    return answer.json();
  }

  const sockets = graphqlWs.createClient({
    url: ws,
    lazy: true,
    connectionParams: () => ({authorization: bearer()}),
  });

  function kind(parameters, options) {
    const operations = (options?.documentAST?.definitions ?? []).filter((d) => d.kind === "OperationDefinition");
    const found = operations.length === 1
      ? operations[0]
      : operations.find((d) => d.name?.value === parameters.operationName);
    return found?.operation;
  }

  const fetcher = (parameters, options) =>
    kind(parameters, options) === "subscription" ? sockets.iterate(parameters) : post(parameters);

  // GraphiQL keeps its tabs; ours go with the browser tab, like the key.
  const storage = {
    getItem: (name) => sessionStorage.getItem(name),
    setItem: (name, value) => sessionStorage.setItem(name, value),
    removeItem: (name) => sessionStorage.removeItem(name),
    clear: () => sessionStorage.clear(),
    get length() { return sessionStorage.length; },
  };

  const variables = (example) => (example.variables ? JSON.stringify(example.variables, null, 2) : "");

  // A link may bring a document along: /playground#query=…&variables=…
  function linked() {
    const given = new URLSearchParams(location.hash.slice(1));
    return given.has("query") ? {query: given.get("query"), variables: given.get("variables") ?? ""} : null;
  }

  let root = null;
  function show(tab) {
    root?.unmount();
    root = ReactDOM.createRoot($("graphiql"));
    root.render(React.createElement(GraphiQL, {
      fetcher,
      storage,
      query: tab.query,
      variables: tab.variables,
      isHeadersEditorEnabled: false,
      defaultEditorToolsVisibility: tab.variables ? "variables" : false,
    }));
  }

  async function open() {
    const answer = await post({query: "{ viewer { tenant { name } } }"});
    const tenant = answer.data?.viewer?.tenant;
    if (!tenant) {
      sessionStorage.removeItem(KEY);
      return answer.errors?.[0]?.message ?? "This key does not work.";
    }
    who.textContent = tenant.name;
    forget.hidden = false;
    ask.hidden = true;
    $("graphiql").hidden = false;
    const link = linked();
    show(link ?? {query: examples[0].query, variables: variables(examples[0])});
    return null;
  }

  picker.append(...examples.map((example, place) => new Option(example.name, String(place))));
  picker.addEventListener("change", () => {
    const example = examples[Number(picker.value)];
    if (root) show({query: example.query, variables: variables(example)});
  });
  forget.addEventListener("click", () => {
    sessionStorage.clear();
    sockets.dispose();
    // Not reload(): a demo key that the page brings along would be taken again.
    root?.unmount();
    root = null;
    $("graphiql").hidden = true;
    forget.hidden = true;
    who.textContent = "";
    ask.hidden = false;
    $("key").focus();
  });
  ask.addEventListener("submit", async (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, $("key").value.trim());
    $("key").value = "";
    refused.textContent = (await open()) ?? "";
  });

  const demo = document.body.dataset.demoKey;
  if (!sessionStorage.getItem(KEY) && demo) sessionStorage.setItem(KEY, demo);
  if (sessionStorage.getItem(KEY) && (await open()) === null) return;
  ask.hidden = false;
  $("key").focus();
})();
