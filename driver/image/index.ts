export { type BootFiles, extractBootFiles } from './boot-files.js';
export { copyImage, imageStamp } from './copy.js';
export { type IsoEntry, IsoImage } from './iso9660.js';
export { type ImageSource, type LocalImage, parseImageSource, requireSourceFile, resolveImage } from './source.js';
