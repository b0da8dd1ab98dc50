// Command bastion lets e2e.test run commands on the lab's nodes: it speaks SSH to the tests, and the lab's own agent to
// the nodes, which have no SSH server.
//
//	bastion -key FILE -node ADDRESS=NAME ... -- COMMAND ...
//
// It makes the key that the tests log in with (KUBE_SSH_KEY_PATH), prints the address that it listens on
// (KUBE_SSH_BASTION), and ends when its standard input does. A connection through it to port 22 of a node's address is
// answered by itself; what is executed there becomes "COMMAND ... NAME -- bash -c <what>". Bash, because the tests look
// for its words where a command is missing.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

type nodes map[string]string

func (n nodes) String() string { return fmt.Sprint(map[string]string(n)) }

func (n nodes) Set(given string) error {
	address, name, found := strings.Cut(given, "=")
	if !found {
		return errors.New("want ADDRESS=NAME")
	}
	n[address] = name
	return nil
}

type bastion struct {
	config  *ssh.ServerConfig
	nodes   nodes
	command []string
}

func main() {
	known := nodes{}
	key := flag.String("key", "", "file that gets the private key to log in with")
	flag.Var(known, "node", "address and name of a node")
	flag.Parse()
	config, err := configure(*key)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	b := &bastion{config: config, nodes: known, command: flag.Args()}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go b.serve(conn, "")
	}
}

// configure makes a host key and the one key that may log in, which it writes to path.
func configure(path string) (*ssh.ServerConfig, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, err
	}
	allowed, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	_, own, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(own)
	if err != nil {
		return nil, err
	}
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, given ssh.PublicKey) (*ssh.Permissions, error) {
			if !bytes.Equal(given.Marshal(), allowed.Marshal()) {
				return nil, errors.New("not the key that was made for the tests")
			}
			return nil, nil
		},
	}
	config.AddHostKey(signer)
	return config, nil
}

// serve answers one connection: as the bastion itself where node is empty, else as that node.
func (b *bastion) serve(conn net.Conn, node string) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, b.config)
	if err != nil {
		log.Printf("connection: %v", err)
		return
	}
	go ssh.DiscardRequests(requests)
	for channel := range channels {
		switch kind := channel.ChannelType(); {
		case kind == "direct-tcpip" && node == "":
			go b.forward(channel)
		case kind == "session" && node != "":
			go b.session(channel, node)
		default:
			_ = channel.Reject(ssh.Prohibited, "not here")
		}
	}
}

// forward takes a connection to a node's port 22, and answers it.
func (b *bastion) forward(asked ssh.NewChannel) {
	var to struct {
		Host   string
		Port   uint32
		Source string
		From   uint32
	}
	if err := ssh.Unmarshal(asked.ExtraData(), &to); err != nil {
		_ = asked.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	node, found := b.nodes[to.Host]
	if !found || to.Port != 22 {
		_ = asked.Reject(ssh.ConnectionFailed, fmt.Sprintf("no node has %s:%d", to.Host, to.Port))
		return
	}
	channel, requests, err := asked.Accept()
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	b.serve(link{channel}, node)
}

// session executes one command on the node.
func (b *bastion) session(asked ssh.NewChannel, node string) {
	channel, requests, err := asked.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	for request := range requests {
		var what struct{ Command string }
		if request.Type != "exec" || ssh.Unmarshal(request.Payload, &what) != nil {
			_ = request.Reply(false, nil)
			continue
		}
		_ = request.Reply(true, nil)
		argv := append(append([]string{}, b.command...), node, "--", "bash", "-c", what.Command)
		command := exec.Command(argv[0], argv[1:]...)
		command.Stdout, command.Stderr = channel, channel.Stderr()
		status := struct{ Status uint32 }{}
		if err := command.Run(); err != nil {
			status.Status = 255
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() >= 0 {
				status.Status = uint32(exit.ExitCode())
			}
		}
		log.Printf("%s: %q ended with %d", node, what.Command, status.Status)
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(&status))
		return
	}
}

// link is a channel as a connection.
type link struct{ ssh.Channel }

func (link) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (link) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (link) SetDeadline(time.Time) error      { return nil }
func (link) SetReadDeadline(time.Time) error  { return nil }
func (link) SetWriteDeadline(time.Time) error { return nil }
