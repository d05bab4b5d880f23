import { accessSync, constants } from 'node:fs';
import { mkdir, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';

import { TshyveError, codeOf, exists, fileError, messageOf, run, writeFileAtomic } from '../../base/index.js';
import { checkNetworkName, networksFolder } from './definition.js';

const SYSTEMCTL_TIMEOUT_MS = 60_000;
const TARGET = 'multi-user.target.wants';

/** Name of the unit that brings a network up at boot. */
export function unitName(network: string): string {
  return `tshyve-network-${checkNetworkName(network)}.service`;
}

/** Where an administrator's units lie (systemd.unit(5)). `TSHYVE_UNITS` overrides. */
function unitsFolder(env: NodeJS.ProcessEnv = process.env): string {
  const override = env['TSHYVE_UNITS'];
  return override === undefined || override === '' ? '/etc/systemd/system' : override;
}

/**
 * The text of a network's unit (systemd.service(5), systemd.exec(5)). The keeper may change the host's network and hand
 * interfaces to users, and no more: the capabilities are those of ip, nft and dnsmasq.
 * @param tshyve the words that start the command tshyve; the first is an absolute path
 */
export function serviceUnit(network: string, tshyve: readonly string[], networks = networksFolder()): string {
  const command = [...tshyve, 'network', 'up', network, '--foreground'].map(quote).join(' ');
  return `# Written by "tshyve network up ${network} --boot", removed by "tshyve network down ${network}".
[Unit]
Description=tshyve network ${network}
Documentation=man:dnsmasq(8)
# Whether IPv6 is forwarded depends on the host's routes.
Wants=network-online.target
After=network-online.target nftables.service docker.service

[Service]
Type=notify
# systemd-notify(1) tells that the network is up.
NotifyAccess=all
ExecStart=${command}
Environment=${quote(`TSHYVE_NETWORKS=${networks}`)} HOME=/root
Restart=on-failure
RestartSec=2
TimeoutStartSec=60
TimeoutStopSec=30
# dnsmasq is ended by the keeper.
KillMode=mixed

CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE
# dnsmasq changes its user; the keeper gives each user a socket of their own, and signals dnsmasq.
CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_CHOWN CAP_FOWNER CAP_KILL CAP_DAC_OVERRIDE
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths=${quote(networks)} -/run/xtables.lock
ProtectHome=read-only
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0022

[Install]
WantedBy=multi-user.target
`;
}

/**
 * Has a network brought up at each boot. Where systemd runs now it is told; else the unit is put in place for the next
 * boot.
 * @param tshyve as for `serviceUnit`
 * @returns true when systemd knows of it now
 * @throws TshyveError `precondition` when we may not, or systemd refuses
 */
export async function installUnit(network: string, tshyve: readonly string[]): Promise<boolean> {
  const path = join(unitsFolder(), unitName(network));
  try {
    await mkdir(unitsFolder(), { recursive: true, mode: 0o755 });
    await mkdir(networksFolder(), { recursive: true, mode: 0o755 });
    await writeFileAtomic(path, serviceUnit(network, tshyve), 0o644);
    if (!systemdRuns()) {
      // What "systemctl enable" does.
      await mkdir(join(unitsFolder(), TARGET), { recursive: true, mode: 0o755 });
      await symlink(join('..', unitName(network)), join(unitsFolder(), TARGET, unitName(network))).catch(
        ignoreExisting,
      );
      return false;
    }
  } catch (error) {
    throw fileError(`write ${path}`, error);
  }
  await systemctl('daemon-reload');
  await systemctl('enable', unitName(network));
  return true;
}

/** Starts the unit of a network, which is not up, and waits until it is. @throws TshyveError `precondition` */
export async function startUnit(network: string): Promise<void> {
  await systemctl('start', unitName(network));
}

/** Forgets the unit of a network; fine when it has none. The network itself stays as it is. */
export async function removeUnit(network: string): Promise<void> {
  const path = join(unitsFolder(), unitName(network));
  const link = join(unitsFolder(), TARGET, unitName(network));
  if (!(await exists(path)) && !(await exists(link))) return;
  try {
    await rm(link, { force: true });
    await rm(path, { force: true });
  } catch (error) {
    throw fileError(`remove ${path}`, error);
  }
  if (systemdRuns()) await systemctl('daemon-reload');
}

/** Tells systemd, if it has started us, that the network is up (sd_notify(3)). */
export async function notifySystemd(): Promise<void> {
  if ((process.env['NOTIFY_SOCKET'] ?? '') === '') return;
  const { code, stderr } = await run('systemd-notify', ['--ready'], { timeoutMs: SYSTEMCTL_TIMEOUT_MS });
  if (code !== 0) throw new TshyveError('precondition', `systemd-notify failed: ${stderr.trim()}`);
}

/** sd_booted(3). Units in a folder of somebody's choice are none of the running systemd's business. */
function systemdRuns(): boolean {
  if ((process.env['TSHYVE_UNITS'] ?? '') !== '') return false;
  try {
    accessSync('/run/systemd/system', constants.F_OK);
    return true;
  } catch {
    return false;
  }
}

async function systemctl(...args: string[]): Promise<void> {
  let said: string;
  try {
    const { code, stderr } = await run('systemctl', args, { timeoutMs: SYSTEMCTL_TIMEOUT_MS });
    if (code === 0) return;
    said = stderr.trim().split('\n').slice(-2).join(' ');
  } catch (error) {
    said = messageOf(error);
  }
  throw new TshyveError('precondition', `"systemctl ${args.join(' ')}" failed: ${said}`);
}

function ignoreExisting(error: unknown): void {
  if (codeOf(error) !== 'EEXIST') throw error;
}

/** A word of a unit's command line (systemd.syntax(7), systemd.service(5)): quotes, specifiers, variables. */
export function quote(word: string): string {
  const escaped = word.replaceAll('%', '%%').replaceAll('$', '$$$$');
  if (/^[A-Za-z0-9_/.:=@%$+,-]+$/.test(escaped)) return escaped;
  return `"${escaped.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`;
}
