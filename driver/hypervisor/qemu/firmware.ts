import { dirname, join } from 'node:path';

import { TshyveError, copyFileAtomic, exists } from '../../base/index.js';
import type { FirmwareSpec } from '../vm-spec.js';
import type { Architecture } from './arguments.js';
import type { QemuProgram } from './binary.js';

/** EDK2 for QEMU: its code, which all machines share, and what a machine's own variables begin as. */
export interface Firmware {
  readonly code: string;
  readonly variables: string;
}

/** Below /usr/share: Debian and Ubuntu, Fedora, Arch Linux. */
const places: Readonly<Record<Architecture, readonly (readonly [string, string])[]>> = {
  x86_64: [
    ['OVMF/OVMF_CODE_4M.fd', 'OVMF/OVMF_VARS_4M.fd'],
    ['OVMF/OVMF_CODE.fd', 'OVMF/OVMF_VARS.fd'],
    ['edk2/ovmf/OVMF_CODE.fd', 'edk2/ovmf/OVMF_VARS.fd'],
    ['edk2/x64/OVMF_CODE.4m.fd', 'edk2/x64/OVMF_VARS.4m.fd'],
  ],
  aarch64: [
    ['AAVMF/AAVMF_CODE.fd', 'AAVMF/AAVMF_VARS.fd'],
    ['edk2/aarch64/QEMU_EFI-pflash.raw', 'edk2/aarch64/vars-template-pflash.raw'],
  ],
};
/** What QEMU itself installs, as Homebrew keeps it. */
const own = {
  x86_64: ['edk2-x86_64-code.fd', 'edk2-i386-vars.fd'],
  aarch64: ['edk2-aarch64-code.fd', 'edk2-arm-vars.fd'],
};
const packages = { x86_64: 'ovmf', aarch64: 'qemu-efi-aarch64' };

/**
 * @param system where distributions install it
 * @returns undefined when this host has none
 */
export async function findFirmware(
  { path, architecture }: QemuProgram,
  system = '/usr/share',
): Promise<Firmware | undefined> {
  const share = join(dirname(path), '../share/qemu');
  const [ownCode = '', ownVariables = ''] = own[architecture];
  for (const [code, variables] of [
    ...places[architecture].map(([code, variables]) => [join(system, code), join(system, variables)] as const),
    [join(share, ownCode), join(share, ownVariables)] as const,
  ]) {
    if ((await exists(code)) && (await exists(variables))) return { code, variables };
  }
  return undefined;
}

/** The sentence for a host without. */
export function firmwareMissing(architecture: Architecture): string {
  return `Booting by firmware takes EDK2 for QEMU, which was not found: install it, e.g. with "apt-get install ${packages[architecture]}".`;
}

/**
 * Finds the firmware and gives a machine variables of its own, unless it has them.
 * @throws TshyveError `precondition`, `no-space`
 */
export async function prepareFirmware(
  program: QemuProgram,
  { variableStore }: FirmwareSpec,
  system?: string,
): Promise<Firmware> {
  const firmware = await findFirmware(program, system);
  if (firmware === undefined) throw new TshyveError('precondition', firmwareMissing(program.architecture));
  if (!(await exists(variableStore))) {
    // A copy that was cut off would stay for good; and Homebrew installs files that nobody may write.
    await copyFileAtomic(firmware.variables, variableStore, `write ${variableStore}`, 0o600);
  }
  return { code: firmware.code, variables: variableStore };
}
