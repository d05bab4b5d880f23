// The records of the write load. A record is kRecordSize bytes of little-endian 64-bit words: its number, its writer, then
// words that depend on number, writer and place.
#pragma once
#include <stdint.h>

enum { kRecordSize = 4096 + 512, kRecordWords = kRecordSize / 8, kRecordsPerFile = 32 };

static inline void fillRecord(uint64_t record[kRecordWords], uint64_t writer, uint64_t number) {
  const uint64_t base = (number * 2 + writer) * 0x9E3779B97F4A7C15ULL;
  record[0] = number;
  record[1] = writer;
  for (uint64_t at = 2; at < kRecordWords; at++) record[at] = base + at;
}
