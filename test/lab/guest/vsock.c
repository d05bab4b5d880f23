// Sockets of the address family vsock(7): serves one connection of the host, then makes one to it.
#define _GNU_SOURCE
#include "guest.h"

#include <string.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <unistd.h>

static struct sockaddr_vm addressOf(unsigned cid, unsigned long port) {
  struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = (unsigned)port};
  return address;
}

static int openSocket(void) {
  int handle = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (handle < 0) die("AF_VSOCK");
  return handle;
}

void useVsock(void) {
  const unsigned long port = numberOption("lab.port", 1024);
  const struct sockaddr_vm here = addressOf(VMADDR_CID_ANY, port), host = addressOf(VMADDR_CID_HOST, port);
  int server = openSocket();
  if (bind(server, (const struct sockaddr *)&here, sizeof here) != 0 || listen(server, 1) != 0) die("vsock server");
  say("vsock listens");
  int client = accept(server, NULL, NULL);
  if (client < 0) die("vsock accept");
  // Back comes all of it, however much: a program's end of its half ends ours.
  char bytes[4096];
  ssize_t length;
  while ((length = read(client, bytes, sizeof bytes)) > 0)
    for (ssize_t done = 0, put; done < length; done += put)
      if ((put = write(client, bytes + done, (size_t)(length - done))) <= 0) die("vsock write");
  if (length < 0) die("vsock read");
  close(client);
  close(server);
  int caller = openSocket();
  if (connect(caller, (const struct sockaddr *)&host, sizeof host) != 0) die("vsock connect");
  const char words[] = "of the guest\n";
  if (write(caller, words, strlen(words)) < 0 || close(caller) != 0) die("vsock to the host");
  say("vsock is over");
}
