/* echo-servers [pinned] : what it costs one client to ask 1, 2 or 3 servers in turn, with nothing behind them.
 *
 *     cc -O2 -o /tmp/echo-servers bench/echo-servers.c && /tmp/echo-servers && /tmp/echo-servers pinned
 *
 * Three processes send back what comes by a unix socket (200 bytes); the client asks the first one, the first
 * two and all three in turn, 1,000 times each, 100 turns. Printed: CPU us of client and servers together for a
 * round trip (quartiles), and the medians of the turns' ratios to one server. `pinned`: the client on the first
 * processor, all servers on the second, so that the scheduler chooses no places. Linux; nothing else should run. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SERVERS = 3, TURNS = 100, TRIPS = 1000, BYTES = 200 };

static double cpu_us(int pid) {
    char path[64];
    double ns = 0;
    snprintf(path, sizeof path, "/proc/%d/schedstat", pid);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%lf", &ns) != 1) {
        perror(path);
        exit(1);
    }
    fclose(file);
    return ns / 1e3;
}

static void pin(int processor) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    if (sched_setaffinity(0, sizeof set, &set)) {
        perror("sched_setaffinity: two processors are needed");
        exit(1);
    }
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    int pinned = argc > 1 && !strcmp(argv[1], "pinned"), sockets[SERVERS], pids[SERVERS];
    char message[BYTES] = {0};
    if (argc > 1 && !pinned) {
        fprintf(stderr, "usage: echo-servers [pinned]\n");
        return 2;
    }
    if (pinned) pin(0);
    for (int i = 0; i < SERVERS; i++) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return perror("socketpair"), 1;
        if (!(pids[i] = fork())) {
            if (pinned) pin(1);
            close(pair[0]);
            while (recv(pair[1], message, BYTES, MSG_WAITALL) == BYTES) send(pair[1], message, BYTES, MSG_NOSIGNAL);
            _exit(0);
        }
        close(pair[1]);
        sockets[i] = pair[0];
    }
    static double cost[SERVERS][TURNS], ratio[SERVERS][TURNS];
    for (int turn = 0; turn < TURNS; turn++)
        for (int n = 1; n <= SERVERS; n++) {
            double before = cpu_us(getpid()), after;
            for (int i = 0; i < SERVERS; i++) before += cpu_us(pids[i]);
            for (int k = 0; k < TRIPS; k++) {
                send(sockets[k % n], message, BYTES, MSG_NOSIGNAL);
                if (recv(sockets[k % n], message, BYTES, MSG_WAITALL) != BYTES) return fputs("a server is gone\n", stderr), 1;
            }
            after = cpu_us(getpid());
            for (int i = 0; i < SERVERS; i++) after += cpu_us(pids[i]);
            cost[n - 1][turn] = (after - before) / TRIPS;
            ratio[n - 1][turn] = cost[n - 1][turn] / cost[0][turn];
        }
    for (int n = 0; n < SERVERS; n++) {
        qsort(cost[n], TURNS, sizeof(double), ascending);
        qsort(ratio[n], TURNS, sizeof(double), ascending);
        printf("%d: %.1f (%.1f to %.1f) us, ratio %.2f (%.2f to %.2f)\n", n + 1, cost[n][TURNS / 2], cost[n][TURNS / 4], cost[n][TURNS * 3 / 4],
               ratio[n][TURNS / 2], ratio[n][TURNS / 4], ratio[n][TURNS * 3 / 4]);
        kill(pids[n], SIGKILL);
        waitpid(pids[n], NULL, 0);
    }
    return 0;
}
