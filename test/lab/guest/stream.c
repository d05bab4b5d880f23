// TCP throughput: one connection each way. The client sends one byte first: 'S' (it will send) or 'R' (it will receive).
#define _GNU_SOURCE
#include "guest.h"

#include <sys/socket.h>
#include <unistd.h>

static uint8_t block[kStreamBlock];

int64_t sendStream(int socket, double seconds) {
  int64_t sent = 0;
  for (double end = now() + seconds; now() < end;) {
    ssize_t length = send(socket, block, sizeof block, MSG_NOSIGNAL);
    if (length < 0) return -1;
    sent += length;
  }
  if (shutdown(socket, SHUT_WR) != 0) return -1;
  // The peer closes when it has read everything.
  return recv(socket, block, 1, 0) == 0 ? sent : -1;
}

int64_t receiveStream(int socket) {
  int64_t received = 0;
  for (ssize_t length; (length = recv(socket, block, sizeof block, 0)) != 0;) {
    if (length < 0) return -1;
    received += length;
  }
  return received;
}
