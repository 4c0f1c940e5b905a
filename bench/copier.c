/* SPDX-License-Identifier: Apache-2.0 */
/* A mirror in user space, as a peer: every frame at an interface, both directions, is sent on as VXLAN by a socket.
 *
 *   copier DEVICE TARGET PORT
 */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>

int main(int argc, char **argv)
{
	static unsigned char frame[1 << 17];
	unsigned char vxlan[8] = { 8, 0, 0, 0, 0, 0, 9, 0 };
	int tap, out, buffer = 64 << 20;

	if (argc != 4)
		return 2;
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL),
				  .sll_ifindex = if_nametoindex(argv[1]) };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[3])) };

	tap = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
	out = socket(AF_INET, SOCK_DGRAM, 0);
	inet_pton(AF_INET, argv[2], &to.sin_addr);
	setsockopt(tap, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer));
	if (bind(tap, (void *)&at, sizeof(at)) || connect(out, (void *)&to, sizeof(to)))
		return 1;
	puts("ready");
	fflush(stdout);
	for (;;) {
		ssize_t bytes = recv(tap, frame, sizeof(frame), 0);
		struct iovec parts[2] = { { vxlan, sizeof(vxlan) }, { frame, bytes } };

		if (bytes > 0)
			writev(out, parts, 2);	/* what is too large, or refused, is lost: as users do */
	}
}
