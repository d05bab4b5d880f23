// Storage-provisioner meets claims of storage by folders of the node. It is what minikube's own does, except that it elects
// no leader: its library would do so by endpoints, which today's client library refuses, and minikube runs one pod of it.
package main

import (
	"context"
	"fmt"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/minikube/pkg/storage"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v6/controller"
)

const (
	// name is what minikube's storage class asks for.
	name = "k8s.io/minikube-hostpath"
	// folder is where minikube's guest images keep what is stored, also when the node restarts.
	folder = "/tmp/hostpath-provisioner"
)

func main() {
	if err := run(); err != nil {
		klog.Exit(err)
	}
}

func run() error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	server, err := client.Discovery().ServerVersion()
	if err != nil {
		return fmt.Errorf("the API server does not tell its version: %w", err)
	}
	provisioner := storage.NewHostPathProvisioner(folder)
	controller.NewProvisionController(client, name, provisioner, server.GitVersion, controller.LeaderElection(false)).Run(context.Background())
	return nil
}
