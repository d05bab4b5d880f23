export { type DecodedValue, GobDecoder } from './decoder.js';
export { GobEncoder } from './encoder.js';
export { type GobLimits, defaultLimits } from './limits.js';
export { type GobSchema, type GobValue, builtin, text } from './types.js';
