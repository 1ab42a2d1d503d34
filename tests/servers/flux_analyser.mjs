// Runs the Flux language server (WebAssembly) and speaks its protocol with it:
// a line with a text as JSON comes in, a line with a list of what is wrong with it goes out.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

// Standard output is for answers alone; what the server logs is nobody's concern.
console.log = console.info = console.debug = () => {};

const home = process.argv[2];
const glue = await import(`${home}/adapted.mjs`);
const bytes = readFileSync(`${home}/flux-lsp-browser_bg.wasm`);
const { instance } = await WebAssembly.instantiate(bytes, { "./flux-lsp-browser_bg.js": glue });
glue.setWasm(instance.exports);

const ERROR = 1;
const server = new glue.Lsp();
const awaited = new Map();
server.onMessage((text) => {
  const message = JSON.parse(text);
  if (message.method !== "textDocument/publishDiagnostics") return;
  const { uri, diagnostics } = message.params;
  awaited.get(uri)?.(diagnostics);
});
server.run();

let id = 0;
const ask = (method, params) => server.send(JSON.stringify({ jsonrpc: "2.0", id: ++id, method, params }));
const tell = (method, params) => server.send(JSON.stringify({ jsonrpc: "2.0", method, params }));

await ask("initialize", { capabilities: {} });
await tell("initialized", {});

let number = 0;
async function problems(text) {
  const uri = `file:///${++number}/query.flux`;
  const found = new Promise((resolve) => awaited.set(uri, resolve));
  await tell("textDocument/didOpen", { textDocument: { uri, languageId: "flux", version: 1, text } });
  const diagnostics = await found;
  awaited.delete(uri);
  await tell("textDocument/didClose", { textDocument: { uri } });
  return diagnostics
    .filter(({ severity }) => (severity ?? ERROR) === ERROR)
    .map(({ message, range }) => `${range.start.line + 1}:${range.start.character + 1} ${message}`);
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await problems(JSON.parse(line)))}\n`);
}
process.exit(0);
