/*
 * nodes.h
 *		Nodes: what nodes.c, node_check.c and local_node.c share.
 */
#ifndef DBSCALE_NODES_H
#define DBSCALE_NODES_H

#include "ddl/ddl.h"

/* Raises an error unless the new server's database can be a node; see node_check.c. */
extern void dbscale_node_check(const char *node, Oid serverid, Oid userid);
/* The comment that marks schema dbscale_shards on a node as ours. */
extern char *dbscale_node_mark(const char *node);

/* The directory of the server's first socket, or "localhost" without one. */
extern char *dbscale_local_host(void);
/*
 * Create (or find empty, left by a transaction that was rolled back) the database
 * of a local node.  `serverid` is the new node's server, which for the moment
 * leads to the current database.  Returns the database's name.
 */
extern char *dbscale_local_database_create(const char *node, Oid serverid, Oid userid);
/* Drop it, or say why it is left.  The server's dbname is changed on the way. */
extern void dbscale_local_database_drop(const char *node, Oid serverid, Oid userid);
/* ALTER SERVER node OPTIONS (SET dbname ...), seen by the next connection. */
extern void dbscale_node_set_database(const char *node, const char *dbname);
extern char *dbscale_node_option(Oid serverid, const char *name);

#endif							/* DBSCALE_NODES_H */
