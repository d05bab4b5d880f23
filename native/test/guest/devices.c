/* Scenarios with virtio devices. */
#include "devices.h"

#include "guest.h"
#include "virtio.h"

enum { kNetDevice = 1, kBlockDevice = 2, kConsoleDevice = 3, kEntropyDevice = 4, kBalloonDevice = 5 };

static struct Device device;
static struct Queue queues[2];

static void describe(struct Queue* queue, uint16_t index, const volatile void* data, uint32_t length, uint16_t flags) {
  queue->descriptors[index] = (struct Descriptor){(uint64_t)data, length, flags, (uint16_t)(index + 1)};
}

static uint8_t transfer(uint32_t type, uint64_t sector, void* data, uint32_t length) {
  static volatile struct {
    uint32_t type, reserved;
    uint64_t sector;
  } header;
  static volatile uint8_t status;
  header.type = type;
  header.sector = sector;
  status = 0xff;
  struct Queue* const queue = &queues[0];
  describe(queue, 0, &header, 16, kNext);
  if (length != 0) describe(queue, 1, data, length, (uint16_t)(kNext | (type == 0 ? kDeviceWrites : 0)));
  const uint16_t last = length != 0 ? 2 : 1;
  describe(queue, last, &status, 1, kDeviceWrites);
  offer(queue, 0);
  waitUsed(queue);
  return status;
}

void disk(void) {
  static uint64_t data[512];
  openDevice(&device, kBlockDevice, 1 << 9 /* FLUSH */);
  openQueue(&device, 0, &queues[0]);
  startDevice(&device);
  const uint64_t capacity = *(volatile uint32_t*)device.config;
  print("sectors ");
  printNumber(capacity);
  print("\n");
  if (transfer(0, 0, data, 4096) != 0) fail("read");
  print("was ");
  printHex(data[0]);
  print("\n");
  for (uint64_t at = 0; at < 512; at++) data[at] = 0x0123456789abcdef + at;
  if (transfer(1, 8, data, 4096) != 0) fail("write");
  if (transfer(4, 0, 0, 0) != 0) fail("flush");
  for (uint64_t at = 0; at < 512; at++) data[at] = 0;
  if (transfer(0, 8, data, 4096) != 0) fail("read back");
  for (uint64_t at = 0; at < 512; at++) {
    if (data[at] != 0x0123456789abcdef + at) fail("other data");
  }
  if (transfer(0, capacity, data, 4096) != 1) fail("read beyond the end");
  if (transfer(99, 0, data, 512) != 2) fail("unknown request");
  print("disk\n");
}

void network(void) {
  static uint8_t received[2048], sent[12 + 60];
  openDevice(&device, kNetDevice, 1 << 5 /* MAC */);
  openQueue(&device, 0, &queues[0]);
  openQueue(&device, 1, &queues[1]);
  startDevice(&device);
  for (int at = 0; at < 6; at++) {
    sent[12 + at] = 0xff;
    sent[18 + at] = device.config[at];
  }
  sent[24] = 0x88; /* local experimental EtherType */
  sent[25] = 0xb5;
  for (int at = 26; at < 72; at++) sent[at] = (uint8_t)at;
  for (int round = 0; round < 3; round++) {
    describe(&queues[0], 0, received, sizeof received, kDeviceWrites);
    offer(&queues[0], 0);
    sent[40] = (uint8_t)round;
    describe(&queues[1], 0, sent, sizeof sent, 0);
    offer(&queues[1], 0);
    waitUsed(&queues[1]);
    if (waitUsed(&queues[0]) != sizeof sent) fail("length");
    for (int at = 12; at < 72; at++) {
      if (received[at] != sent[at]) fail("frame");
    }
  }
  print("network\n");
}

/* Random bytes, told by an interrupt. */
void entropy(void) {
  static volatile uint64_t data[2];
  enableInterrupts();
  openDevice(&device, kEntropyDevice, 0);
  openQueue(&device, 0, &queues[0]);
  startDevice(&device);
  describe(&queues[0], 0, data, sizeof data, kDeviceWrites);
  offer(&queues[0], 0);
  waitForInterrupt();
  if (waitUsed(&queues[0]) != sizeof data) fail("length");
  if (data[0] == 0 || data[0] == data[1]) fail("entropy");
  print("entropy\n");
}

/* Fetches random bytes for ever; a line for every time. */
void entropyForEver(void) {
  static volatile uint64_t data[2];
  openDevice(&device, kEntropyDevice, 0);
  openQueue(&device, 0, &queues[0]);
  startDevice(&device);
  for (uint64_t number = 1;; number++) {
    describe(&queues[0], 0, data, sizeof data, kDeviceWrites);
    offer(&queues[0], 0);
    if (waitUsed(&queues[0]) != sizeof data) fail("length");
    print("n");
    printNumber(number);
    print("\n");
  }
}

/* Says back what it hears on a virtio console. */
void virtioConsole(void) {
  static char text[64];
  openDevice(&device, kConsoleDevice, 0);
  openQueue(&device, 0, &queues[0]);
  openQueue(&device, 1, &queues[1]);
  startDevice(&device);
  describe(&queues[0], 0, text, sizeof text, kDeviceWrites);
  offer(&queues[0], 0);
  print("listening\n");
  const uint32_t length = waitUsed(&queues[0]);
  describe(&queues[1], 0, text, length, 0);
  offer(&queues[1], 0);
  waitUsed(&queues[1]);
}

/* Reports a page as free, says that it gave up seven, and runs on. */
void balloon(void) {
  static volatile uint8_t page[4096] __attribute__((aligned(4096)));
  for (int at = 0; at < 4096; at++) page[at] = 0xff;
  openDevice(&device, kBalloonDevice, 1 << 1 /* statistics */ | 1 << 5 /* page reporting */);
  openQueue(&device, 3, &queues[0]);
  startDevice(&device);
  describe(&queues[0], 0, page, sizeof page, kDeviceWrites);
  offer(&queues[0], 0);
  waitUsed(&queues[0]);
  if (page[0] != 0 || page[4095] != 0) fail("the page is still there");
  *(volatile uint32_t*)(device.config + 4) = 7;
  print("balloon\n");
  for (;;) pause();
}
