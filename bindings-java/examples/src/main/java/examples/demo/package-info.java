/** The Java worker of the demo. */
package examples.demo;
