// The API key stays here, in the process that serves the page: it is put on each request on its way to PunchConnect,
// WebSockets included. No browser ever sees it. In production your own server does the same, behind your own sign-in.
import { readFileSync } from "node:fs";
import react from "@vitejs/plugin-react";
import { defineConfig, type ProxyOptions } from "vite";

function punchconnect(): { url: string; key: string } {
  const { PUNCHCONNECT_URL: url, PUNCHCONNECT_KEY: key } = process.env;
  if (url && key) return { url, key };
  const dev = JSON.parse(readFileSync(new URL("../../.punchconnect/dev.json", import.meta.url), "utf8"));
  return { url: dev.url, key: dev.api_key };
}

export default defineConfig(({ command, isPreview }) => {
  if (command === "build" && !isPreview) return { plugins: [react()] };
  const { url, key } = punchconnect();
  const graphql: ProxyOptions = {
    target: url,
    changeOrigin: true,
    ws: true,
    headers: { Authorization: `Bearer ${key}` },
  };
  const server = { port: 5173, proxy: { "/graphql": graphql } };
  return { plugins: [react()], server, preview: server };
});
