export { SupervisorClient, findSupervisor, lastExit, launchSupervisor } from './client.js';
export type { MachineReference } from './place.js';
export { type SavedState, discardSavedState, giveUp, hasSavedState, misfits, readSavedState } from './saved-state.js';
export { quickStatus } from './status.js';
export type { LaunchRequest, MachineEvent, SupervisorStatus } from './types.js';
