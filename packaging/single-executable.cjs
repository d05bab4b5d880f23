// The way in of the single executable: loads the chunks of dist/ from the executable's assets as they are needed.
// An executable's own require() knows only Node's modules.
'use strict';
const { dirname } = require('node:path');
const { getAsset } = require('node:sea');
const { Script } = require('node:vm');

const loaded = new Map();
function load(name) {
  let module = loaded.get(name);
  if (module === undefined) {
    module = { exports: {} };
    loaded.set(name, module);
    const source = `(function (exports, require, module, __filename, __dirname) {${getAsset(name, 'utf8')}\n})`;
    const run = new Script(source, { filename: name }).runInThisContext();
    const requireFrom = (id) => (id.startsWith('./') ? load(id.slice(2)) : require(id));
    // Code that looks for files beside itself finds those beside the executable.
    run(module.exports, requireFrom, module, process.execPath, dirname(process.execPath));
  }
  return module.exports;
}
load('main.cjs').startByName(process.argv0);
