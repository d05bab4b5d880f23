/** Guests of a few instructions, for what a stock kernel would take minutes to show on a host that emulates them. */

const LOAD_ADDRESS = 0x100_0000;
const ELF_HEADER = 64;
const PROGRAM_HEADER = 56;
const NOTE = 20;
const NOTE_OFFSET = ELF_HEADER + 2 * PROGRAM_HEADER;
const HEADERS = NOTE_OFFSET + NOTE;
const SERIAL = 0x3f8;
const SERIAL_STATUS = 0x3fd;
const POWER = 0x600;
const KEYBOARD = 0x64;

type Code = readonly number[];

/** mov dx, port */
const port = (number: number): Code => [0x66, 0xba, number & 0xff, number >> 8];
/** mov al, value; out dx, al */
const out = (value: number): Code => [0xb0, value, 0xee];

export const print = (text: string): Code => [...port(SERIAL), ...[...Buffer.from(text)].flatMap((byte) => out(byte))];
/** Writes to the port that the machine's ACPI tables name (sleep type 5). */
export const powerOff = (): Code => [...port(POWER), ...out(0x34), ...hang()];
/** By the keyboard controller, as every PC does it. */
export const reset = (): Code => [...port(KEYBOARD), ...out(0xfe), ...hang()];
/** An invalid instruction, with nothing to handle it: a triple fault. */
export const tripleFault = (): Code => [0x0f, 0x0b];
/** hlt; jmp $-1 */
export const hang = (): Code => [0xf4, 0xeb, 0xfd];
/** mov ecx, n; dec ecx; jnz $-2: two instructions a round */
export const delay = (rounds: number): Code => [0xb9, ...littleEndian(rounds, 4), 0xff, 0xc9, 0x75, 0xfc];
/** Echoes what comes over the serial port until that is `last`. */
export function echoUntil(last: string): Code {
  const poll = [...port(SERIAL_STATUS), 0xec, 0xa8, 0x01, 0x74, 0xf7];
  const answer = [...port(SERIAL), 0xec, 0xee, 0x3c, last.charCodeAt(0)];
  const size = poll.length + answer.length + 2;
  return [...poll, ...answer, 0x75, 0x100 - size];
}
/** in al, dx; test al, THR empty; jz $-3 */
const waitUntilSent = (): Code => [...port(SERIAL_STATUS), 0xec, 0xa8, 0x20, 0x74, 0xfb];
/** Writes `a` to `z` over and over, a pause after each letter: the letter lives in a register, bl. */
export function alphabet(rounds: number): Code {
  const start = [0xb3, 0x61];
  // mov al, bl; out dx, al; inc bl; cmp bl, '{'; jb loop; jmp start
  const body = [...delay(rounds), ...waitUntilSent(), ...port(SERIAL), 0x88, 0xd8, 0xee, 0xfe, 0xc3, 0x80, 0xfb, 0x7b];
  return [...start, ...body, 0x72, 0x100 - (body.length + 2), 0xeb, 0x100 - (start.length + body.length + 4)];
}

/**
 * An ELF file whose entry is the code, by PVH (in 32-bit mode), which QEMU and the native core have in common. All code
 * above means the same in 64-bit mode.
 */
export function elf(...code: Code[]): Buffer {
  const text = Buffer.from(code.flat());
  const header = Buffer.alloc(HEADERS);
  header.write('\x7fELF\x02\x01\x01', 'latin1');
  header.writeUInt16LE(2, 16); // ET_EXEC
  header.writeUInt16LE(62, 18); // EM_X86_64
  header.writeUInt32LE(1, 20);
  const entry = LOAD_ADDRESS + HEADERS;
  header.writeBigUInt64LE(BigInt(entry), 24);
  header.writeBigUInt64LE(BigInt(ELF_HEADER), 32);
  header.writeUInt16LE(ELF_HEADER, 52);
  header.writeUInt16LE(PROGRAM_HEADER, 54);
  header.writeUInt16LE(2, 56);
  const size = HEADERS + text.length;
  segment(header, ELF_HEADER, { type: 1, offset: 0, address: LOAD_ADDRESS, size }); // PT_LOAD
  segment(header, ELF_HEADER + PROGRAM_HEADER, { type: 4, offset: NOTE_OFFSET, address: 0, size: NOTE }); // PT_NOTE
  header.writeUInt32LE(4, NOTE_OFFSET);
  header.writeUInt32LE(4, NOTE_OFFSET + 4);
  header.writeUInt32LE(18, NOTE_OFFSET + 8); // XEN_ELFNOTE_PHYS32_ENTRY
  header.write('Xen\0', NOTE_OFFSET + 12, 'latin1');
  header.writeUInt32LE(entry, NOTE_OFFSET + 16);
  return Buffer.concat([header, text]);
}

function segment(header: Buffer, at: number, what: { type: number; offset: number; address: number; size: number }) {
  header.writeUInt32LE(what.type, at);
  header.writeUInt32LE(7, at + 4); // rwx
  header.writeBigUInt64LE(BigInt(what.offset), at + 8);
  header.writeBigUInt64LE(BigInt(what.address), at + 16);
  header.writeBigUInt64LE(BigInt(what.address), at + 24);
  header.writeBigUInt64LE(BigInt(what.size), at + 32);
  header.writeBigUInt64LE(BigInt(what.size), at + 40);
  header.writeBigUInt64LE(4n, at + 48);
}

function littleEndian(value: number, bytes: number): number[] {
  return Array.from({ length: bytes }, (_, index) => (value >> (8 * index)) & 0xff);
}
