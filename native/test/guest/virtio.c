#include "virtio.h"

#include "guest.h"

enum {
  kConfigAddress = 0xcf8,
  kConfigData = 0xcfc,
  kVendor = 0x1af4,
  kCommon = 1,
  kNotify = 2,
  kDevice = 4,
};

static uint32_t pciRead(uint32_t slot, uint32_t offset) {
  outl(kConfigAddress, 0x80000000 | slot << 11 | (offset & 0xfc));
  return inl(kConfigData);
}

static void pciWrite(uint32_t slot, uint32_t offset, uint32_t value) {
  outl(kConfigAddress, 0x80000000 | slot << 11 | (offset & 0xfc));
  outl(kConfigData, value);
}

static volatile uint8_t* commonAt(const struct Device* device, uint32_t offset) { return device->common + offset; }
static void put8(volatile uint8_t* at, uint8_t value) { *at = value; }
static void put16(volatile uint8_t* at, uint16_t value) { *(volatile uint16_t*)at = value; }
static void put32(volatile uint8_t* at, uint32_t value) { *(volatile uint32_t*)at = value; }
static void put64(volatile uint8_t* at, uint64_t value) {
  put32(at, (uint32_t)value);
  put32(at + 4, (uint32_t)(value >> 32));
}

static void enableMsix(uint32_t slot, uint32_t capability, uint64_t bar) {
  volatile uint8_t* const entry = (volatile uint8_t*)(bar + (pciRead(slot, capability + 4) & ~7U));
  put64(entry, 0xfee00000); /* the local APIC of processor 0 */
  put32(entry + 8, kMsixVector);
  put32(entry + 12, 0);
  pciWrite(slot, capability, pciRead(slot, capability) | 0x80000000);
}

static void findRegisters(struct Device* device, uint64_t bar) {
  const uint32_t slot = device->slot;
  for (uint32_t at = pciRead(slot, 0x34) & 0xff; at != 0; at = pciRead(slot, at) >> 8 & 0xff) {
    const uint32_t head = pciRead(slot, at);
    if ((head & 0xff) == 0x11) enableMsix(slot, at, bar);
    if ((head & 0xff) != 0x09) continue;
    volatile uint8_t* const registers = (volatile uint8_t*)(bar + pciRead(slot, at + 8));
    if (head >> 24 == kCommon) device->common = registers;
    if (head >> 24 == kDevice) device->config = registers;
    if (head >> 24 == kNotify) {
      device->notify = registers;
      device->notifyMultiplier = pciRead(slot, at + 16);
    }
  }
}

static uint64_t offeredFeatures(const struct Device* device) {
  uint64_t features = 0;
  for (uint32_t half = 0; half < 2; half++) {
    put32(commonAt(device, 0), half);
    features |= (uint64_t) * (volatile uint32_t*)commonAt(device, 4) << (32 * half);
  }
  return features;
}

void openDevice(struct Device* device, uint32_t type, uint64_t wantedFeatures) {
  device->slot = 0;
  while (pciRead(device->slot, 0) != (kVendor | (0x1040 + type) << 16)) {
    if (++device->slot == 32) fail("no such virtio device");
  }
  const uint64_t bar = pciRead(device->slot, 0x10) & ~15U;
  pciWrite(device->slot, 0x04, 0x6); /* memory, bus master */
  findRegisters(device, bar);
  put8(commonAt(device, 20), 0);
  while (*commonAt(device, 20) != 0) pause();
  put8(commonAt(device, 20), 1);
  put8(commonAt(device, 20), 3);
  device->features = offeredFeatures(device) & (wantedFeatures | 1UL << 32);
  for (uint32_t half = 0; half < 2; half++) {
    put32(commonAt(device, 8), half);
    put32(commonAt(device, 12), (uint32_t)(device->features >> (32 * half)));
  }
  put8(commonAt(device, 20), 11);
  if (*commonAt(device, 20) != 11) fail("features");
}

void openQueue(struct Device* device, uint16_t index, struct Queue* queue) {
  put16(commonAt(device, 22), index);
  put16(commonAt(device, 24), kQueueSize);
  put16(commonAt(device, 26), 0);
  if (*(volatile uint16_t*)commonAt(device, 26) != 0) fail("queue vector");
  put64(commonAt(device, 32), (uint64_t)queue->descriptors);
  put64(commonAt(device, 40), (uint64_t)&queue->available);
  put64(commonAt(device, 48), (uint64_t)&queue->used);
  put16(commonAt(device, 28), 1);
  const uint16_t offset = *(volatile uint16_t*)commonAt(device, 30);
  queue->notify = (volatile uint16_t*)(device->notify + offset * device->notifyMultiplier);
}

void startDevice(struct Device* device) { put8(commonAt(device, 20), 15); }

void offer(struct Queue* queue, uint16_t head) {
  queue->available.ring[queue->available.index % kQueueSize] = head;
  __asm__ volatile("" ::: "memory");
  queue->available.index++;
  __asm__ volatile("" ::: "memory");
  *queue->notify = 0;
}

uint32_t waitUsed(struct Queue* queue) {
  while (queue->used.index == queue->seen) pause();
  return queue->used.ring[queue->seen++ % kQueueSize].length;
}
