import { TshyveError, messageOf } from '../../base/index.js';
import type { PortForward } from '../vm-spec.js';
import {
  type NativeAddon,
  type NativeSwitch,
  type NativeSwitchMachine,
  type NativeSwitchSettings,
  loadAddon,
} from './addon.js';
import { nativeError } from './errors.js';
import { nativeForward } from './forwards.js';

export type SwitchSettings = NativeSwitchSettings;
export type SwitchMachine = NativeSwitchMachine;

/** What happens on a user-mode network. */
export type SwitchEvent =
  /** A machine was given its address: DHCPACK. */
  | { readonly type: 'address'; readonly mac: string; readonly address: string }
  | { readonly type: 'log'; readonly line: string };

/** The switch of a user-mode network; see native/src/net/switch/user_switch.h. All methods throw TshyveErrors. */
export interface UserSwitch {
  addMachine(machine: SwitchMachine): Promise<void>;
  /** Takes its forwards along; fine when it is not there. */
  removeMachine(mac: string): Promise<void>;
  /** @param guestAddress of the machine. @returns the host port that is bound */
  addForward(forward: PortForward, guestAddress: string): Promise<number>;
  removeForward(forward: PortForward, guestAddress: string): Promise<void>;
  close(): Promise<void>;
}

/** @throws TshyveError `precondition` */
export async function openSwitch(settings: SwitchSettings, onEvent: (event: SwitchEvent) => void): Promise<UserSwitch> {
  const addon = loadAddon();
  const native = await attempt('Cannot make the network', () =>
    addon.createSwitch(settings, (event) => {
      if (event.type === 'address' || event.type === 'log') onEvent(event);
    }),
  );
  return wrap(native);
}

/** @throws TshyveError `precondition` that names the fix */
export function requireSwitch(): void {
  try {
    const { createSwitch } = loadAddon() as Partial<NativeAddon>;
    // The addon for macOS has none: its way out is libslirp, its wait is epoll.
    if (createSwitch === undefined) throw new TshyveError('precondition', 'This platform has no switch.');
  } catch (error) {
    throw new TshyveError(
      'precondition',
      `A user-mode network for several machines needs the native core. ${messageOf(error)} Or use --tshyve-network user.`,
      { cause: error },
    );
  }
}

function wrap(native: NativeSwitch): UserSwitch {
  return {
    addMachine: (machine) => attempt('Cannot attach the machine', () => native.addMachine(machine)),
    removeMachine: (mac) => attempt('Cannot detach the machine', () => native.removeMachine(mac)),
    addForward: (forward, guestAddress) =>
      attempt('The switch', () => native.addForward({ ...nativeForward(forward), guestAddress })),
    removeForward: (forward, guestAddress) =>
      attempt('The switch', () => native.removeForward({ ...nativeForward(forward), guestAddress })),
    close: () => native.close(),
  };
}

async function attempt<T>(what: string, act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (error) {
    throw nativeError(what, error);
  }
}
