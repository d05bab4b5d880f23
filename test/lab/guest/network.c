// A static address for the guest's first network card, with the classic ioctls (netdevice(7)): the kernels of
// distributions have no address configuration of their own, and a DHCP client would be one more thing to measure.
#define _GNU_SOURCE
#include "guest.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { kCardTries = 500, kCardPauseMs = 10, kLinkTries = 500 };

static struct sockaddr address(uint32_t hostOrder) {
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(hostOrder)};
  struct sockaddr out;
  memcpy(&out, &in, sizeof out);
  return out;
}

static uint32_t parse(const char *text) {
  struct in_addr in;
  if (inet_pton(AF_INET, text, &in) != 1) die(text);
  return ntohl(in.s_addr);
}

static void bringUp(int control, const char *card) {
  struct ifreq request = {0};
  strncpy(request.ifr_name, card, IFNAMSIZ - 1);
  for (int tries = 0; ioctl(control, SIOCGIFFLAGS, &request) != 0; tries++) {
    if (tries == kCardTries) die(card);
    usleep(kCardPauseMs * 1000);
  }
  request.ifr_flags = (short)(request.ifr_flags | IFF_UP);
  if (ioctl(control, SIOCSIFFLAGS, &request) != 0) die("IFF_UP");
}

void configureNetwork(void) {
  int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (control < 0) die("socket");
  bringUp(control, "lo");
  char text[64];
  snprintf(text, sizeof text, "%s", option("lab.ip", "10.0.2.15/24"));
  char *slash = strchr(text, '/');
  unsigned length = slash != NULL ? (unsigned)atoi(slash + 1) : 24;
  if (slash != NULL) *slash = '\0';
  bringUp(control, "eth0");
  struct ifreq request = {0};
  strcpy(request.ifr_name, "eth0");
  request.ifr_addr = address(parse(text));
  if (ioctl(control, SIOCSIFADDR, &request) != 0) die("SIOCSIFADDR");
  request.ifr_netmask = address(length == 0 ? 0 : ~0U << (32 - length));
  if (ioctl(control, SIOCSIFNETMASK, &request) != 0) die("SIOCSIFNETMASK");
  const char *gateway = option("lab.gateway", NULL);
  if (gateway != NULL) {
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
    route.rt_dst = address(0);
    route.rt_genmask = address(0);
    route.rt_gateway = address(parse(gateway));
    if (ioctl(control, SIOCADDRT, &route) != 0) die("SIOCADDRT");
  }
  for (int tries = 0; tries < kLinkTries; tries++) {
    if (ioctl(control, SIOCGIFFLAGS, &request) == 0 && (request.ifr_flags & IFF_RUNNING) != 0) break;
    usleep(kCardPauseMs * 1000);
  }
  close(control);
}
