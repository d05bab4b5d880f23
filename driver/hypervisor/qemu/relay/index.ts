export { FrameRelay } from './frame-relay.js';
