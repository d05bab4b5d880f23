/* The guest of the machine tests. A word on its command line chooses what it does. */
#include "guest.h"

#include "devices.h"

enum {
  kCom1 = 0x3f8,
  kAcpiPort = 0x600,
  kKeyboardCommand = 0x64,
  kRtcIndex = 0x70,
  kRtcData = 0x71,
};
#define LOCAL_APIC 0xfee00000UL
#define IO_APIC 0xfec00000UL
/* Nothing answers here: in the hole below 4 GiB, beside the PCI windows. */
#define NOBODY 0xfd000000UL

extern char apStart[], apEnd[];
extern volatile uint32_t interruptCount;
void interruptEntry(void);

void print(const char* text) {
  for (; *text != 0; text++) {
    while ((inb(kCom1 + 5) & 0x20) == 0) pause();
    outb(kCom1, (uint8_t)*text);
  }
}

void printNumber(uint64_t value) {
  char text[21];
  char* at = text + 20;
  *at = 0;
  do {
    *--at = (char)('0' + value % 10);
    value /= 10;
  } while (value != 0);
  print(at);
}

void printHex(uint64_t value) {
  char text[17];
  for (int digit = 0; digit < 16; digit++) text[digit] = "0123456789abcdef"[(value >> (60 - 4 * digit)) & 15];
  text[16] = 0;
  print(text);
}

void powerOff(void) {
  outb(kAcpiPort, 0x80);
  outb(kAcpiPort, 0x34);
  for (;;) pause();
}

void fail(const char* what) {
  print("FAIL ");
  print(what);
  print("\n");
  powerOff();
}

static volatile uint32_t* apic(uint32_t offset) { return (volatile uint32_t*)(LOCAL_APIC + offset); }

static void ioApicWrite(uint32_t index, uint32_t value) {
  *(volatile uint32_t*)IO_APIC = index;
  *(volatile uint32_t*)(IO_APIC + 0x10) = value;
}

void enableInterrupts(void) {
  static struct {
    uint16_t low, selector, flags, middle;
    uint32_t high, zero;
  } __attribute__((packed)) idt[64];
  static struct {
    uint16_t limit;
    uint64_t base;
  } __attribute__((packed)) descriptor;
  const uint64_t handler = (uint64_t)&interruptEntry;
  for (int vector = 32; vector < 64; vector++) {
    idt[vector].low = (uint16_t)handler;
    idt[vector].selector = 8;
    idt[vector].flags = 0x8e00;
    idt[vector].middle = (uint16_t)(handler >> 16);
    idt[vector].high = (uint32_t)(handler >> 32);
  }
  descriptor.limit = sizeof idt - 1;
  descriptor.base = (uint64_t)idt;
  __asm__ volatile("lidt %0" : : "m"(descriptor));
  *apic(0xf0) = 0x1ff; /* spurious vector, APIC on */
  __asm__ volatile("sti");
}

/* Enabling and halting are one step: an interrupt between them would be slept through. */
void waitForInterrupt(void) {
  for (;;) {
    __asm__ volatile("cli");
    if (interruptCount != 0) break;
    __asm__ volatile("sti; hlt");
  }
  __asm__ volatile("sti");
}

static void routeLine(uint32_t pin, uint32_t vector) {
  ioApicWrite(0x10 + 2 * pin + 1, 0);
  ioApicWrite(0x10 + 2 * pin, vector); /* edge, active high, fixed, to APIC 0 */
}

static void hello(void) { print("hello\n"); }

/* Ports and memory where nobody answers, at every width; string I/O; registers read wider than they are. */
static void buses(void) {
  if (inb(0x2e9) != 0xff || inw(0x2e9) != 0xffff || inl(0x2e9) != 0xffffffff) fail("free port");
  outb(0x2e9, 1);
  outw(0x2e9, 1);
  outl(0x2e9, 1);
  if (*(volatile uint8_t*)(NOBODY + 1) != 0xff) fail("free memory, 1 byte");
  if (*(volatile uint16_t*)(NOBODY + 3) != 0xffff) fail("free memory, 2 bytes");
  if (*(volatile uint32_t*)(NOBODY + 5) != 0xffffffff) fail("free memory, 4 bytes");
  if (*(volatile uint64_t*)(NOBODY + 0xffd) != ~0UL) fail("free memory, 8 bytes across a page");
  *(volatile uint8_t*)(NOBODY + 1) = 1;
  *(volatile uint16_t*)(NOBODY + 3) = 1;
  *(volatile uint64_t*)(NOBODY + 0xffd) = 1;
  /* Scratch register and the one behind it, which is nobody's. */
  outb(kCom1 + 7, 0x5a);
  if (inb(kCom1 + 7) != 0x5a) fail("scratch register");
  if (inw(kCom1 + 7) != 0xffff) fail("an access across a device's end");
  const char* text = "string\n";
  uint64_t count = 7;
  __asm__ volatile("rep outsb" : "+S"(text), "+c"(count) : "d"((uint16_t)kCom1) : "memory");
  uint8_t zeros[4] = {1, 1, 1, 1};
  uint8_t* to = zeros;
  count = 4;
  __asm__ volatile("rep insb" : "+D"(to), "+c"(count) : "d"((uint16_t)kKeyboardCommand) : "memory");
  if ((zeros[0] | zeros[1] | zeros[2] | zeros[3]) != 0) fail("string input");
  /* Power port at other widths: no request. */
  outw(kAcpiPort, 0x34);
  outl(kAcpiPort, 0x01);
  print("buses\n");
}

static void clock(void) {
  uint8_t century;
  outb(kRtcIndex, 0x32);
  century = inb(kRtcData);
  outb(kRtcIndex, 0x0d);
  if (inb(kRtcData) != 0x80) fail("clock has no power");
  print("century ");
  printHex(century);
  print("\n");
}

/* A page fault without an interrupt table. */
static void triple(void) {
  static const uint8_t none[10];
  __asm__ volatile("lidt %0" : : "m"(none));
  *(volatile uint8_t*)0x1000000000 = 1;
}

/* Runs code from where there is none: KVM has nothing to emulate. */
static void astray(void) { ((void (*)(void))NOBODY)(); }

static void processors(uint64_t expected) {
  volatile uint16_t* const started = (volatile uint16_t*)0x9000;
  volatile char* const trampoline = (volatile char*)0x8000;
  for (long at = 0; at < apEnd - apStart; at++) trampoline[at] = apStart[at];
  *started = 0;
  *apic(0xf0) = 0x1ff;
  *apic(0x300) = 0xc4500; /* INIT to all others */
  *apic(0x300) = 0xc4608; /* start at page 8 */
  while (*started != expected - 1) pause();
  print("processors ");
  printNumber(*started + 1UL);
  print("\n");
}

static volatile uint64_t counter;
/* Counts for ever; a line for every number. */
static void count(void) {
  for (;;) {
    print("n");
    printNumber(++counter);
    print("\n");
  }
}

/* Returns what it reads, until a q. */
static void echo(void) {
  print("ready\n");
  for (;;) {
    while ((inb(kCom1 + 5) & 1) == 0) pause();
    const char byte[2] = {(char)inb(kCom1), 0};
    if (byte[0] == 'q') return;
    print(byte);
  }
}

/* Waits for the power button, GSI 16. */
static void button(void) {
  enableInterrupts();
  routeLine(16, 40);
  print("waiting\n");
  waitForInterrupt();
  print("button\n");
}

/* Input and empty transmitter by interrupt. */
static void serialInterrupts(void) {
  enableInterrupts();
  routeLine(4, 36);
  outb(kCom1 + 1, 0x02);
  waitForInterrupt();
  if ((inb(kCom1 + 2) & 0x0f) != 0x02) fail("no transmitter interrupt");
  if ((inb(kCom1 + 2) & 0x0f) != 0x01) fail("the interrupt stays");
  interruptCount = 0;
  outb(kCom1 + 1, 0x01);
  print("ready\n");
  waitForInterrupt();
  if ((inb(kCom1 + 2) & 0x0f) != 0x04) fail("no input interrupt");
  print("input\n");
}

static void idle(void) {
  print("idle\n");
  for (;;) __asm__ volatile("cli; hlt");
}

static int begins(const char* text, const char* word) {
  while (*word != 0) {
    if (*text++ != *word++) return 0;
  }
  return *text == ' ' || *text == 0;
}

void guestMain(const uint8_t* startInfo) {
  /* hvm_start_info: the address of the command line is at 24. */
  const char* command = *(const char* const*)(startInfo + 24);
  /* What the loader has put in front. */
  if (begins(command, "reboot=a")) command += 9;
  if (begins(command, "hello")) hello();
  if (begins(command, "buses")) buses();
  if (begins(command, "clock")) clock();
  if (begins(command, "triple")) triple();
  if (begins(command, "astray")) astray();
  if (begins(command, "keyboard-reset")) outb(kKeyboardCommand, 0xfe);
  if (begins(command, "acpi-reset")) outb(kAcpiPort, 0x01);
  if (begins(command, "processors")) {
    uint64_t expected = 0;
    for (const char* at = command + 11; *at >= '0' && *at <= '9'; at++)
      expected = expected * 10 + (uint64_t)(*at - '0');
    processors(expected);
  }
  if (begins(command, "count")) count();
  if (begins(command, "echo")) echo();
  if (begins(command, "button")) button();
  if (begins(command, "serial-interrupts")) serialInterrupts();
  if (begins(command, "idle")) idle();
  if (begins(command, "disk")) disk();
  if (begins(command, "network")) network();
  if (begins(command, "entropy")) entropy();
  if (begins(command, "entropy-for-ever")) entropyForEver();
  if (begins(command, "virtio-console")) virtioConsole();
  if (begins(command, "balloon")) balloon();
  if (begins(command, "spin")) {
    print("spin\n");
    for (;;) pause();
  }
  powerOff();
}
