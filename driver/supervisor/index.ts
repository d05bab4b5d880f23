export { SupervisorClient, findSupervisor, lastExit, launchSupervisor } from './client.js';
export type { MachineReference } from './place.js';
export { quickStatus } from './status.js';
export type { LaunchRequest, MachineEvent, SupervisorStatus } from './types.js';
