export { allEnded } from './all-ended.js';
export { copyFileAtomic, writeFileAtomic } from './atomic-file.js';
export { formatSeconds, sleep, within } from './deadline.js';
export { startDetached } from './detached.js';
export { ANSWER_FD, answerFailure, answerReady, parseDetachedAnswer } from './detached-answer.js';
export { type ErrorKind, TshyveError, codeOf, errorKinds, fileError, messageOf } from './errors.js';
export { type FileLock, isLocked, lockFile } from './file-lock.js';
export { findProgram } from './find-program.js';
export { type Log, noLog } from './log.js';
export {
  checkSocketPath,
  exists,
  hasRunRoot,
  machineId,
  makePrivateDirectory,
  makeRunDirectory,
  runRoot,
  tshyveHome,
} from './paths.js';
export {
  type Manifest,
  type ManifestImage,
  guestArchitecture,
  packageRoot,
  readManifest,
  releaseImage,
} from './manifest.js';
export { type OwnProgram, ownProgram } from './own-program.js';
export { readTextIfPresent } from './read-text.js';
export { type RunOptions, type RunResult, run } from './run.js';
export { isServed, listenPrivately } from './unix-socket.js';
