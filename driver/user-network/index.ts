export { Membership } from './membership.js';
export { portSockets } from './place.js';
