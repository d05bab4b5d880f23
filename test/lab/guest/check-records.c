// Checks what the write load has left. Usage: check-records FOLDER WRITER LAST
// Says the first record of 0..LAST that is not there as it was written; exit code 1 then.
#include "record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int count, char **arguments) {
  if (count != 4) {
    fprintf(stderr, "Usage: check-records FOLDER WRITER LAST\n");
    return 2;
  }
  const uint64_t writer = strtoull(arguments[2], NULL, 10), last = strtoull(arguments[3], NULL, 10);
  uint64_t expected[kRecordWords], found[kRecordWords];
  FILE *file = NULL;
  for (uint64_t number = 0; number <= last; number++) {
    if (number % kRecordsPerFile == 0) {
      char path[512];
      snprintf(path, sizeof path, "%s/%06llu", arguments[1], (unsigned long long)(number / kRecordsPerFile));
      if (file != NULL) fclose(file);
      file = fopen(path, "rb");
      if (file == NULL) {
        printf("record %llu of %llu: %s is missing\n", (unsigned long long)number, (unsigned long long)last, path);
        return 1;
      }
    }
    fillRecord(expected, writer, number);
    if (fread(found, kRecordSize, 1, file) != 1 || memcmp(found, expected, kRecordSize) != 0) {
      printf("record %llu of %llu is lost or damaged\n", (unsigned long long)number, (unsigned long long)last);
      return 1;
    }
  }
  if (file != NULL) fclose(file);
  return 0;
}
