export { Listener } from './listener.js';
export { main } from './main.js';
export { type ExitCode, PluginServer, type PluginServerOptions } from './plugin-server.js';
