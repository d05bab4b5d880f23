/* What the scenarios of the test guest share. Freestanding C, 64-bit, identity-mapped. */
#pragma once

#include <stdint.h>

static inline void outb(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outw(uint16_t port, uint16_t value) { __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outl(uint16_t port, uint32_t value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }
static inline uint8_t inb(uint16_t port) {
  uint8_t value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
static inline uint16_t inw(uint16_t port) {
  uint16_t value;
  __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
static inline uint32_t inl(uint16_t port) {
  uint32_t value;
  __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
static inline void pause(void) { __asm__ volatile("pause" ::: "memory"); }

void print(const char* text);
void printNumber(uint64_t value);
void printHex(uint64_t value);
/* Prints what went wrong and powers off. */
__attribute__((noreturn)) void fail(const char* what);
__attribute__((noreturn)) void powerOff(void);
/* From here on interrupts 32 to 63 are counted and do nothing else. */
void enableInterrupts(void);
/* Sleeps until there was one. */
void waitForInterrupt(void);
