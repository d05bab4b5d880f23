import { readManifest } from '../base/index.js';

const byHand = `This is a Docker Machine plugin binary.
Plugin binaries are not intended to be invoked directly.
Please use this plugin through the main 'docker-machine' binary.
(API version: 1)
`;

const usage = `docker-machine-driver-tshyve: the tshyve driver for docker-machine, rancher-machine and minikube

Usage:
  docker-machine create -d tshyve NAME        a client starts this program by itself
  docker-machine-driver-tshyve --grpc unix:/PATH/driver.sock
                                              serve the driver over gRPC (tshyve.driver.v1)
  docker-machine-driver-tshyve version        print the version

Put the folder of this program on the PATH of the client.
`;

/** What a person sees who starts the plugin directly; the words for that come from libmachine. */
export function answerByHand(word: string | undefined): void {
  if (word === 'version' || word === '--version') {
    process.stdout.write(`version: v${readManifest().version}\n`);
  } else if (word === '--help' || word === '-h') {
    process.stdout.write(usage);
  } else {
    process.stderr.write(byHand);
    process.exitCode = 1;
  }
}
