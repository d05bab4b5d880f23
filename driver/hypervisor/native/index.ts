export { probeNative } from './probe.js';
