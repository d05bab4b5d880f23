/* A driver for modern virtio PCI functions, as small as it can be (Virtual I/O Device 1.2, section 4.1). */
#pragma once

#include <stdint.h>

enum { kQueueSize = 8, kMsixVector = 50 };

struct Descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};
enum { kNext = 1, kDeviceWrites = 2 };

struct Queue {
  struct Descriptor descriptors[kQueueSize] __attribute__((aligned(16)));
  struct {
    uint16_t flags, index, ring[kQueueSize], usedEvent;
  } available __attribute__((aligned(2)));
  struct {
    uint16_t flags;
    volatile uint16_t index;
    struct {
      uint32_t head, length;
    } ring[kQueueSize];
    uint16_t availableEvent;
  } used __attribute__((aligned(4)));
  uint16_t seen;
  volatile uint16_t* notify;
};

struct Device {
  uint32_t slot;
  volatile uint8_t* common;
  volatile uint8_t* config;
  volatile uint8_t* notify;
  uint32_t notifyMultiplier;
  uint64_t features;
};

/* Finds a function by its device type, up to the negotiated features. Fails the guest when there is none. */
void openDevice(struct Device* device, uint32_t type, uint64_t wantedFeatures);
/* Gives a queue to the device. Interrupts come at MSI-X vector 0, which leads to kMsixVector. */
void openQueue(struct Device* device, uint16_t index, struct Queue* queue);
void startDevice(struct Device* device);
/* Offers the chain that begins at descriptor `head`. */
void offer(struct Queue* queue, uint16_t head);
/* Waits until a chain comes back. Returns the bytes written to it. */
uint32_t waitUsed(struct Queue* queue);
