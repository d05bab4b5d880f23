// What the parts of the lab's guest share. Every report is one line `tshyve-lab: ...` on the console.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// One line on the console, in one write so that lines of several processes do not mix.
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);
// Says what failed, with errno, and powers off.
_Noreturn void die(const char *what);
// Value of `NAME=value` on the kernel command line, or the given default. The result is never freed.
const char *option(const char *name, const char *otherwise);
unsigned long numberOption(const char *name, unsigned long otherwise);
// Seconds of a clock that never goes back.
double now(void);

// Gives the first network card the static address of `lab.ip=A.B.C.D/LEN` and, if present, the route `lab.gateway`.
void configureNetwork(void);
// Writes and acknowledges records on /dev/vda until the machine is killed.
_Noreturn void writeRecords(void);
// Measures /dev/vda.
void measureDisk(void);
// Uses the shared folders `share0` and `share1`, the second read-only. Returns whether a guest has written there before.
bool useShares(void);
// Echoes to the first connection to vsock port `lab.port`, then says a line to the host's port of that number.
void useVsock(void);
// Measures a TCP connection to `lab.peer=A.B.C.D:PORT`, both ways.
void measureStream(void);

// TCP both ways: see stream.c.
enum { kStreamBlock = 256 * 1024 };
// Sends until `seconds` are over, then half-closes and waits for the other end to have read all. Returns bytes sent, or -1.
int64_t sendStream(int socket, double seconds);
// Receives until the end. Returns bytes received, or -1.
int64_t receiveStream(int socket);
