// The host's side of the network measurement: listens on the given address, prints the port, serves until killed.
#define _GNU_SOURCE
#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void serve(int client) {
  uint8_t hello[2];
  if (recv(client, hello, sizeof hello, MSG_WAITALL) != sizeof hello) return;
  int64_t bytes = hello[0] == 'R' ? sendStream(client, hello[1]) : receiveStream(client);
  if (bytes < 0) perror("stream-peer");
}

int main(int count, char **arguments) {
  struct sockaddr_in here = {.sin_family = AF_INET};
  socklen_t size = sizeof here;
  if (count != 2 || inet_pton(AF_INET, arguments[1], &here.sin_addr) != 1) {
    fprintf(stderr, "Usage: stream ADDRESS\n");
    return 2;
  }
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0 || bind(listener, (struct sockaddr *)&here, sizeof here) != 0 || listen(listener, 8) != 0 ||
      getsockname(listener, (struct sockaddr *)&here, &size) != 0) {
    perror("stream-peer");
    return 1;
  }
  printf("%d\n", ntohs(here.sin_port));
  fflush(stdout);
  for (;;) {
    int client = accept(listener, NULL, NULL);
    if (client < 0) {
      if (errno == EINTR) continue;
      perror("accept");
      return 1;
    }
    serve(client);
    close(client);
  }
}
