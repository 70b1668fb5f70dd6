// SPDX-License-Identifier: MIT
#pragma once

#if __has_include(<sys/wait.h>)
#define DIFFEO_HAS_FORK

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

/// Starts a process that runs f(), which returns its exit code, and returns its id.
template <class F>
pid_t start_child(const F& f) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(f());
  return child;
}

/// Waits for a process. Returns its exit code, -1 where a signal ended it.
inline int exit_code_of(pid_t child) {
  int status = 0;
  if (::waitpid(child, &status, 0) != child) return -2;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// In a child: files may have no more than so many bytes, as on a disk that is full.
inline void limit_file_size(unsigned long bytes) {
  ::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{bytes, bytes};
  ::setrlimit(RLIMIT_FSIZE, &limit);
}

/// In a child: gives up the rights of root, who may write where nobody may. Returns whether there are none now.
inline bool give_up_root() { return ::geteuid() != 0 || (::setgid(65534) == 0 && ::setuid(65534) == 0); }

#endif
