// The guest's side of the network measurement.
#define _GNU_SOURCE
#include "guest.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void measure(const struct sockaddr_in *peer, char direction, double seconds) {
  int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (client < 0) die("socket");
  if (connect(client, (const struct sockaddr *)peer, sizeof *peer) != 0) die("connect");
  // The peer, when it is the sender, is told for how long.
  uint8_t hello[2] = {(uint8_t)direction, (uint8_t)seconds};
  if (send(client, hello, sizeof hello, MSG_NOSIGNAL) != sizeof hello) die("send");
  double begin = now();
  int64_t bytes = direction == 'S' ? sendStream(client, seconds) : receiveStream(client);
  double took = now() - begin;
  close(client);
  if (bytes < 0) die("stream");
  say("stream %s mbit=%.1f bytes=%lld", direction == 'S' ? "guest-to-host" : "host-to-guest",
      (double)bytes * 8 / took / 1e6, (long long)bytes);
}

void measureStream(void) {
  char text[64];
  snprintf(text, sizeof text, "%s", option("lab.peer", "10.0.2.2:5201"));
  char *colon = strchr(text, ':');
  if (colon == NULL) die("lab.peer");
  *colon = '\0';
  struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
  if (inet_pton(AF_INET, text, &peer.sin_addr) != 1) die(text);
  double seconds = (double)numberOption("lab.seconds", 3);
  measure(&peer, 'S', seconds);
  measure(&peer, 'R', seconds);
}
